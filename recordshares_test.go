package relay_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// record asks for a node's record from an address, or brings one.
func (q *quiet) record(from, method string, node *relaytest.Node, content any) (status int, body string) {
	q.Helper()
	return q.call(from, method, node, wire.RelaysURI(node.ServerName), content)
}

func (q *quiet) call(from, method string, node *relaytest.Node, uri string, content any) (status int, body string) {
	q.Helper()
	r, err := node.Request(method, relayName, uri, content)
	require.NoError(q, err)
	r.RequestURI, r.RemoteAddr = r.URL.RequestURI(), from
	w := httptest.NewRecorder()
	q.server.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func (q *quiet) bring(from string, node *relaytest.Node, seq uint64) (status int, body string) {
	q.Helper()
	record := recordOf(q, node, seq, relayName)
	return q.record(from, http.MethodPut, node, json.RawMessage(record.JSON()))
}

// Where a relay acts for everybody, strangers at one address can't fill the room for
// records: it brings those of so many new servers an hour. Changes are free, and what
// isn't signed counts for nobody.
func TestNewRecordsOfOneAddress(t *testing.T) {
	const most = 16
	quietly(t, nil, func(q *quiet) {
		good := recordOf(q, q.a, 1, relayName)
		node := func(i int) *relaytest.Node { return relaytest.NewNode(fmt.Sprint("stranger", i)) }
		for range 2 * most {
			forged := strings.Replace(string(good.JSON()), `"seq":1`, `"seq":2`, 1)
			status, _ := q.record(floodAddress, http.MethodPut, q.a, json.RawMessage(forged))
			require.Equal(q, http.StatusForbidden, status)
		}
		for i := range most {
			status, body := q.bring(floodAddress, node(i), 1)
			require.Equal(q, http.StatusOK, status, body)
		}
		status, body := q.bring(floodAddress, node(most), 1)
		requireError(q, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", status, body)
		status, body = q.bring(floodAddress, node(1), 2)
		require.Equal(q, http.StatusOK, status, body)
		status, body = q.bring(phoneAddress, node(most), 1)
		require.Equal(q, http.StatusOK, status, body)
		time.Sleep(time.Hour / most)
		status, body = q.bring(floodAddress, node(most+1), 1)
		require.Equal(q, http.StatusOK, status, body)
		status, body = q.bring(floodAddress, node(most+2), 1)
		requireError(q, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", status, body)
	})
}

// A record is refused, as mail is, and so are receipts, while the address or the server has stored its share.
func TestRecordsCountAsStored(t *testing.T) {
	for what, config := range map[string]policy.LimitsConfig{
		"address": {Address: policy.Shares{Stored: policy.Rate{PerSecond: 1, Burst: 1}}},
		"server":  {Name: policy.Shares{Stored: policy.Rate{PerSecond: 1, Burst: 1}}},
	} {
		limits := policy.NewLimits(config)
		quietly(t, func(c *relay.Config) { c.Policy = limits }, func(q *quiet) {
			status, body := q.bring(floodAddress, q.a, 1)
			require.Equal(q, http.StatusOK, status, body)
			status, body = q.bring(floodAddress, q.a, 2)
			requireError(q, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", status, body)
			require.Contains(q, body, "this "+what+" has stored its share")
			status, body = q.call(floodAddress, http.MethodPut, q.a, wire.ReceiptsURI, wire.ReceiptsBody{})
			requireError(q, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", status, body)
			status, body = q.record(floodAddress, http.MethodGet, q.a, nil)
			require.Equal(q, http.StatusOK, status, body)
			time.Sleep(time.Hour)
			status, body = q.bring(floodAddress, q.a, 2)
			require.Equal(q, http.StatusOK, status, body)
		})
	}
}

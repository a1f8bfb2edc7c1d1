package relay_test

import (
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
)

// Whatever the answer is, no proxy may keep it.
func TestNoAnswerIsStored(t *testing.T) {
	var faulty *faultyStore
	r := newRig(t, func(c *relay.Config) {
		faulty = &faultyStore{Store: c.Store}
		c.Store, c.MaxBodyBytes, c.MaxEntries = faulty, 1<<20, 2
	})
	const v1 = "/_matrix/federation/v1/"
	userB := "@user:" + string(r.b.ServerName)
	large := `{"pdus":[{"a":"` + strings.Repeat("x", 1<<20) + `"}]}`
	for _, c := range []struct {
		status               int
		method, uri, content string
		before               func()
	}{
		{200, "GET", "relay_txn/" + userB, `{}`, nil},
		{200, "GET", "relay_txn/" + userB + "?limit=5", `{}`, nil},
		{200, "PUT", "send_relay/1/" + userB, `{"pdus":[]}`, nil},
		{200, "GET", "relay_txn/" + userB, `{}`, nil},
		{200, "GET", "relay_txn/" + userB + "?limit=5", `{}`, nil},
		{400, "PUT", "send_relay/1/" + userB, `{}`, nil},
		{400, "GET", "relay_txn/x", `{}`, nil},
		{401, "PUT", "send_relay/1/" + userB, "", nil},
		{403, "GET", "relay_txn/@user:b", `{}`, nil},
		{404, "PUT", "send_relay/x", `{}`, nil},
		{404, "GET", "elsewhere", `{}`, nil},
		{405, "POST", "relay_txn/" + userB, `{}`, nil},
		{413, "PUT", "send_relay/1/" + userB, large, nil},
		{507, "PUT", "send_relay/2/" + userB, `{"pdus":[]}`, nil},
		{500, "GET", "relay_txn/" + userB, `{}`, func() { faulty.next = errors.New("no") }},
		{404, "GET", "relay_txn/" + userB, `{}`, func() { r.server.SetEnabled(false) }},
		{503, "GET", "relay_txn/" + userB, `{}`, func() { require.NoError(t, r.server.Close()) }},
	} {
		if c.before != nil {
			c.before()
		}
		request, err := r.b.Request(c.method, relayName, v1+c.uri, json.RawMessage(`{"pdus":[]}`))
		require.NoError(t, err)
		if c.content == "" {
			request.Header.Del("Authorization")
		} else {
			request, err = r.b.Request(c.method, relayName, v1+c.uri, json.RawMessage(c.content))
			require.NoError(t, err)
		}
		answer := httptest.NewRecorder()
		r.server.ServeHTTP(answer, request)
		require.Equal(t, c.status, answer.Code, "%s %s: %s", c.method, c.uri, answer.Body)
		require.Equal(t, []string{"no-store"}, answer.Result().Header["Cache-Control"], "%s %s: %d", c.method, c.uri, c.status)
		require.Equal(t, "application/json", answer.Result().Header.Get("Content-Type"))
	}
}

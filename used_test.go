package relay_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/internal/pipes"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// usedRig is a relay on a listener that bounds bytes which no request uses, and a client on
// one connection.
func usedRig(t *testing.T, change func(*relay.Config)) (q *quiet, send func(*http.Request) (status int)) {
	all := pipes.Listen()
	q = newQuiet(t, change)
	web := &http.Server{Handler: q.server, ConnContext: relay.ConnContext}
	served := make(chan error, 1)
	go func() { served <- web.Serve(bounded.Listen(all, bounded.Options{Unused: 4 << 10})) }()
	client := &http.Client{Transport: &http.Transport{DialContext: all.DialContext, MaxConnsPerHost: 1}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		require.NoError(t, web.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return q, func(r *http.Request) int {
		r.URL.Scheme, r.URL.Host = "http", relayName
		response, err := client.Do(r)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
}

func limited(c *relay.Config) { c.Policy = policy.NewLimits(policy.LimitsConfig{}) }

// The bytes of requests that are served don't count as unused, however many there are.
func TestUsedBytes(t *testing.T) {
	t.Run("limits", func(t *testing.T) { testUsedBytes(t, limited) })
	t.Run("no policy", func(t *testing.T) { testUsedBytes(t, func(*relay.Config) {}) })
	t.Run("a proxy", func(t *testing.T) {
		testUsedBytes(t, func(c *relay.Config) {
			limited(c)
			c.ClientAddress = func(*http.Request) netip.Addr { return netip.MustParseAddr("192.0.2.1") }
		})
	})
}

func testUsedBytes(t *testing.T, change func(*relay.Config)) {
	synctest.Test(t, func(t *testing.T) {
		q, send := usedRig(t, change)
		began := time.Now()
		for i := range 3 { // much more than may come unused
			r, err := q.a.Request(http.MethodPut, relayName, wire.SendRelayURI("1", relaytest.User(q.b.ServerName)), largeContent(1<<20+i))
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, send(r))
		}
		for range 900 {
			r, err := q.a.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(q.a.ServerName)), json.RawMessage(`{"entry_id":0}`))
			require.NoError(t, err)
			r.Header.Set("X-Padding", strings.Repeat("x", 300))
			require.Equal(t, http.StatusOK, send(r))
		}
		require.Zero(t, time.Since(began))
	})
}

// A body in pieces of one byte has most of its bytes around it: they come slowly.
func TestTinyPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, send := usedRig(t, limited)
		r, err := q.a.Request(http.MethodPut, relayName, wire.SendRelayURI("1", relaytest.User(q.b.ServerName)), largeContent(200_000))
		require.NoError(t, err)
		r.Body, r.ContentLength = io.NopCloser(iotest.OneByteReader(r.Body)), -1
		began := time.Now()
		require.Equal(t, http.StatusOK, send(r))
		require.Greater(t, time.Since(began), 30*time.Second)
	})
}

// Requests to another handler count in the share of their address, with those to the relay.
func TestCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuiet(t, func(c *relay.Config) {
			c.Policy = policy.NewLimits(policy.LimitsConfig{Address: policy.Shares{Requests: policy.Rate{PerSecond: 1, Burst: 3}}})
		})
		counted := q.server.Counted(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
		ask := func(handler http.Handler, from, uri string) int {
			r, w := httptest.NewRequest(http.MethodGet, uri, nil), httptest.NewRecorder()
			r.RemoteAddr = from
			handler.ServeHTTP(w, r)
			return w.Code
		}
		require.Equal(t, http.StatusTeapot, ask(counted, floodAddress, "/"))
		require.Equal(t, http.StatusTeapot, ask(counted, floodAddress, "/"))
		require.Equal(t, http.StatusOK, ask(q.server, floodAddress, wire.InfoURI))
		began := time.Now()
		require.Equal(t, http.StatusTooManyRequests, ask(counted, floodAddress, "/"))
		require.Equal(t, time.Second/2, time.Since(began), "as the relay's refusals are held")
		require.Equal(t, http.StatusTeapot, ask(counted, phoneAddress, "/"))
		time.Sleep(time.Second)
		require.Equal(t, http.StatusTeapot, ask(counted, floodAddress, "/"))
	})
}

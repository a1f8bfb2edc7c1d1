package dendrite_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// put sends a transaction directly.
func (h *homeserver) put(id string, change func(*http.Request)) (status int, body string) {
	h.t.Helper()
	request, err := a.Request(http.MethodPut, b.ServerName, wire.Prefix+"send/"+id, a.Transaction(b.ServerName, id, 1, 300))
	require.NoError(h.t, err)
	if change != nil {
		change(request)
	}
	response, err := h.network.RoundTrip(request)
	require.NoError(h.t, err)
	raw, err := io.ReadAll(response.Body)
	require.NoError(h.t, err)
	require.NoError(h.t, response.Body.Close())
	return response.StatusCode, string(raw)
}

// TestDirectFirst has a relay bring a transaction that came directly before.
func TestDirectFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomeserver(t)
		h.start()
		status, body := h.put("one", nil)
		require.Equal(t, http.StatusOK, status)
		require.JSONEq(t, `{"pdus":{"$event":{}}}`, body)
		h.leave("one", r)
		synctest.Wait()
		got, sent := h.got()
		require.Empty(t, got)
		require.Equal(t, 1, sent)
		require.Zero(t, h.waiting())
	})
}

// TestRelayFirst has a transaction come directly that a relay has brought.
func TestRelayFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomeserver(t)
		h.start()
		h.leave("one", r)
		synctest.Wait()
		status, body := h.put("one", nil)
		require.Equal(t, http.StatusOK, status)
		require.JSONEq(t, `{"pdus":{}}`, body)
		got, sent := h.got()
		require.Equal(t, ids{"one"}, got)
		require.Zero(t, sent)
	})
}

// TestDirectRefused has the homeserver not take a transaction that comes directly. Its
// answer is given, and a relay's copy is processed.
func TestDirectRefused(t *testing.T) {
	for _, want := range []int{http.StatusInternalServerError, http.StatusBadRequest} {
		synctest.Test(t, func(t *testing.T) {
			h := newHomeserver(t)
			h.start()
			h.answer = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Reason", "full")
				w.WriteHeader(want)
				_, _ = io.WriteString(w, "no")
			}
			status, body := h.put("one", nil)
			require.Equal(t, want, status)
			require.Equal(t, "no", body)
			h.leave("one", r)
			synctest.Wait()
			got, _ := h.got()
			require.Equal(t, ids{"one"}, got)
		})
	}
}

// TestDirectCutShort has the sender give up while the homeserver processes, so that the
// events fail, though it answers with success. A relay's copy is processed.
func TestDirectCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomeserver(t)
		h.start()
		h.answer = func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			_, _ = io.WriteString(w, `{"pdus":{"$event":{"error":"context canceled"}}}`)
		}
		request, err := a.Request(http.MethodPut, b.ServerName, wire.Prefix+"send/one", a.Transaction(b.ServerName, "one", 1, 300))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			cancel()
		}()
		_, err = h.network.RoundTrip(request.WithContext(ctx))
		require.Error(t, err)
		h.leave("one", r)
		synctest.Wait()
		got, _ := h.got()
		require.Equal(t, ids{"one"}, got)
	})
}

// TestDirectNotOurs sends requests that the homeserver itself has to answer: one whose
// signature isn't right mustn't learn which transactions were handled, nor make any
// count as handled.
func TestDirectNotOurs(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"unsigned": func(r *http.Request) { r.Header.Del("Authorization") },
		"another signature": func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), string(a.ServerName), string(relaytest.NewNode("c").ServerName), 1))
		},
		"OPTIONS": func(r *http.Request) { r.Method = http.MethodOptions },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHomeserver(t)
				h.start()
				h.leave("one", r)
				synctest.Wait()
				_, body := h.put("one", change)
				require.JSONEq(t, `{"pdus":{"$event":{}}}`, body)
				_, _ = h.put("two", change)
				h.leave("two", r)
				synctest.Wait()
				got, sent := h.got()
				require.Equal(t, ids{"one", "two"}, got)
				require.Equal(t, 2, sent)
			})
		})
	}
}

// TestDirectTooLarge is more than is read.
func TestDirectTooLarge(t *testing.T) {
	h := newHomeserver(t)
	h.start()
	status, body := h.put("one", func(r *http.Request) {
		large := make([]byte, relay.DefaultMaxBodyBytes+1)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(large)), int64(len(large))
	})
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
	require.Contains(t, body, "M_TOO_LARGE")
	_, sent := h.got()
	require.Zero(t, sent)
}

// TestOptions sends the request that browsers send first. The answer is that of all of
// Dendrite's routes.
func TestOptions(t *testing.T) {
	h := newHomeserver(t)
	h.start()
	for _, path := range []string{"send_relay/t/@user:b", "relay_txn/@user:b", "send/t"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, "matrix://"+string(b.ServerName)+wire.Prefix+path, nil)
		require.NoError(t, err)
		response, err := h.network.RoundTrip(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode, path)
		if path != "send/t" { // which is the homeserver's
			require.Equal(t, "*", response.Header.Get("Access-Control-Allow-Origin"), path)
			require.NotEmpty(t, response.Header.Get("Access-Control-Allow-Methods"), path)
		}
	}
}

package dendrite_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrix"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/dendrite"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

type ids = []gomatrixserverlib.TransactionID

// TestFetch has the homeserver process its relay's mail, with all that its own
// PUT /send would know.
func TestFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomeserver(t)
		left := h.leave("one", r)
		h.start()
		synctest.Wait()
		h.leave("two", r)
		synctest.Wait()
		got, _ := h.got()
		require.Equal(t, ids{"one", "two"}, got)
		one := h.processed[0]
		require.Equal(t, a.ServerName, one.Origin)
		require.Equal(t, b.ServerName, one.Destination)
		require.JSONEq(t, string(left.PDUs[0]), string(one.PDUs[0]))
		require.Zero(t, h.waiting())
	})
}

// TestOutcomes are those of processing: mail that comes again, and mail that doesn't.
func TestOutcomes(t *testing.T) {
	for name, test := range map[string]struct {
		refusal *util.JSONResponse
		again   bool
	}{
		"the homeserver fails":     {&util.JSONResponse{Code: http.StatusInternalServerError, JSON: "the database is away"}, true},
		"it refuses a transaction": {&util.JSONResponse{Code: http.StatusBadRequest, JSON: "bad JSON"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHomeserver(t)
				h.leave("one", r)
				refusals := 0
				h.transact = func(context.Context) *util.JSONResponse {
					if refusals++; refusals > 1 {
						return nil
					}
					return test.refusal
				}
				h.start()
				time.Sleep(time.Hour)
				synctest.Wait()
				got, _ := h.got()
				if test.again {
					require.Equal(t, ids{"one", "one"}, got)
				} else {
					require.Equal(t, ids{"one"}, got)
				}
				require.Zero(t, h.waiting())
			})
		})
	}
}

// TestCutShort stops the homeserver while it processes: the events of a transaction
// fail then, so it is processed again at the next start.
func TestCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomeserver(t)
		h.leave("one", r)
		h.transact = func(ctx context.Context) *util.JSONResponse {
			<-ctx.Done()
			return nil
		}
		h.start()
		synctest.Wait()
		h.stop()
		require.EqualValues(t, 1, h.waiting())
		h.transact = func(context.Context) *util.JSONResponse { return nil }
		h.process = newProcess(t)
		h.config.Process, h.config.Router = dendriteProcess{h.process}, mux.NewRouter()
		h.start()
		synctest.Wait()
		got, _ := h.got()
		require.Equal(t, ids{"one", "one"}, got)
		require.Zero(t, h.waiting())
	})
}

// TestOnAndOff is as Dendrite's own relay has it.
func TestOnAndOff(t *testing.T) {
	h := newHomeserver(t)
	h.config.RelayingEnabled = false
	h.start()
	c := relaytest.NewNode("c")
	ask := func() error {
		_, err := c.Federation(h.network).P2PGetTransactionFromRelay(t.Context(), relaytest.User(c.ServerName), fclient.RelayEntry{}, b.ServerName)
		return err
	}
	var answer gomatrix.HTTPError
	require.ErrorAs(t, ask(), &answer)
	require.Equal(t, http.StatusNotFound, answer.Code)
	require.False(t, h.mounted.RelayingEnabled())
	h.mounted.SetRelayingEnabled(true)
	require.NoError(t, ask())
	require.True(t, h.mounted.RelayingEnabled())
	require.Equal(t, []spec.ServerName{c.ServerName}, h.woken)
}

// TestOwnMail is mail that others leave at this server for itself.
func TestOwnMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomeserver(t)
		h.start()
		h.leave("one", b.ServerName)
		got, _ := h.got()
		require.Equal(t, ids{"one"}, got)
		h.leave("one", b.ServerName)
		h.leave("one", r)
		synctest.Wait()
		got, _ = h.got()
		require.Equal(t, ids{"one"}, got)
	})
}

// TestReadRelays changes the homeserver's table of relays.
func TestReadRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomeserver(t)
		var known []spec.ServerName
		h.config.RelaysOf = func(_ context.Context, server spec.ServerName) ([]spec.ServerName, error) {
			require.Equal(t, b.ServerName, server)
			return known, nil
		}
		h.leave("one", r)
		h.start()
		synctest.Wait()
		require.EqualValues(t, 1, h.waiting())
		known = []spec.ServerName{r}
		require.NoError(t, h.mounted.ReadRelays(t.Context()))
		synctest.Wait()
		require.Zero(t, h.waiting())
	})
}

// TestStartFails leaves nothing behind: the next Start succeeds.
func TestStartFails(t *testing.T) {
	h := newHomeserver(t)
	relaysOf, registry := h.config.RelaysOf, prometheus.NewRegistry()
	h.config.Registerer = registry
	broken := errors.New("no such table")
	h.config.RelaysOf = func(context.Context, spec.ServerName) ([]spec.ServerName, error) { return nil, broken }
	_, err := dendrite.Start(h.config)
	require.ErrorIs(t, err, broken)
	request, err := a.Request(http.MethodGet, b.ServerName, wire.RelayTxnURI(relaytest.User(a.ServerName)), fclient.RelayEntry{})
	require.NoError(t, err)
	response, err := h.network.RoundTrip(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusNotFound, response.StatusCode)
	h.config.RelaysOf = relaysOf
	h.start()
	metrics, err := registry.Gather()
	require.NoError(t, err)
	require.NotEmpty(t, metrics)

	h.config.Transact = nil
	_, err = dendrite.Start(h.config)
	require.ErrorContains(t, err, "Transact")
}

// TestStop ends all of it with the process: those that wait for mail are answered, and
// no request is taken any more.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomeserver(t)
		h.start()
		request, err := a.Request(http.MethodGet, b.ServerName,
			wire.RelayTxnURI(relaytest.User(a.ServerName))+"?limit=5&timeout=60000", fclient.RelayEntry{})
		require.NoError(t, err)
		statuses := make(chan int)
		go func() {
			response, err := h.network.RoundTrip(request)
			if err != nil {
				statuses <- 0
				return
			}
			_ = response.Body.Close() // it is whole
			statuses <- response.StatusCode
		}()
		synctest.Wait()
		began := time.Now()
		h.stop()
		require.Equal(t, http.StatusOK, <-statuses)
		require.Zero(t, time.Since(began))
		_, err = a.Federation(h.network).P2PGetTransactionFromRelay(t.Context(), relaytest.User(a.ServerName), fclient.RelayEntry{}, b.ServerName)
		require.Error(t, err)
	})
}

// TestInfo asks for the relay's abilities, on the route of the extensions.
func TestInfo(t *testing.T) {
	h := newHomeserver(t)
	h.start()
	recorder := httptest.NewRecorder()
	h.root.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, wire.InfoURI, nil))
	require.Equal(t, http.StatusOK, recorder.Code)
}

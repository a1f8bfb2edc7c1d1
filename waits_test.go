package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A quiet is a relay that is called without a network, for simulated time.
type quiet struct {
	testing.TB
	server *relay.Server
	store  store.Store
	a, b   *relaytest.Node
}

// quietly runs a test in simulated time.
func quietly(t *testing.T, change func(*relay.Config), run func(*quiet)) {
	synctest.Test(t, func(t *testing.T) { run(newQuiet(t, change)) })
}

func newQuiet(t testing.TB, change func(*relay.Config)) *quiet {
	config := relay.Config{ServerName: relayName, Store: memory.New(memory.Options{}), Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&config)
	}
	server, err := relay.New(config)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.NoError(t, config.Store.Close())
	})
	return &quiet{t, server, config.Store, relaytest.NewNode("a"), relaytest.NewNode("b")}
}

// An asked is a request that was made.
type asked struct {
	answer  *httptest.ResponseRecorder
	took    time.Duration
	goAway  func()
	isThere chan struct{} // closed when the answer is
}

// ask makes a request, and returns when it is answered or waits.
func (q *quiet) ask(node *relaytest.Node, entry int64, query string) *asked {
	return q.askFrom("", node, entry, query)
}

func (q *quiet) askFrom(address string, node *relaytest.Node, entry int64, query string) *asked {
	a := q.startFrom(address, node, entry, query)
	synctest.Wait()
	return a
}

func (q *quiet) start(node *relaytest.Node, entry int64, query string) *asked {
	return q.startFrom("", node, entry, query)
}

func (q *quiet) startFrom(address string, node *relaytest.Node, entry int64, query string) *asked {
	q.Helper()
	uri := wire.RelayTxnURI(relaytest.User(node.ServerName)) + query
	request, err := node.Request(http.MethodGet, relayName, uri, json.RawMessage(fmt.Sprintf(`{"entry_id":%d}`, entry)))
	require.NoError(q, err)
	request.RemoteAddr = address
	ctx, cancel := context.WithCancel(context.Background())
	a := &asked{answer: httptest.NewRecorder(), goAway: cancel, isThere: make(chan struct{})}
	began := time.Now()
	go func() {
		defer close(a.isThere)
		q.server.ServeHTTP(a.answer, request.WithContext(ctx))
		a.took = time.Since(began)
	}()
	return a
}

func (q *quiet) put(to *relaytest.Node, id string) {
	q.Helper()
	request, err := q.a.Request(http.MethodPut, relayName, "/_matrix/federation/v1/send_relay/"+id+"/@user:"+string(to.ServerName), json.RawMessage(`{"pdus":[]}`))
	require.NoError(q, err)
	answer := httptest.NewRecorder()
	q.server.ServeHTTP(answer, request)
	require.Equal(q, http.StatusOK, answer.Code)
}

func (a *asked) waits() bool {
	select {
	case <-a.isThere:
		return false
	default:
		return true
	}
}

// requireEmpty waits for an answer without mail.
func (a *asked) requireEmpty(t testing.TB, body string) {
	t.Helper()
	<-a.isThere
	require.Equal(t, http.StatusOK, a.answer.Code, a.answer.Body)
	require.Equal(t, body, a.answer.Body.String())
}

// requireMail waits for an answer with that transaction, and returns its entry.
func (a *asked) requireMail(t testing.TB, id string) int64 {
	t.Helper()
	<-a.isThere
	require.Equal(t, http.StatusOK, a.answer.Code, a.answer.Body)
	entries := entriesOf(t, a.answer.Body.String())
	require.Len(t, entries, 1)
	require.EqualValues(t, id, entries[0].TransactionID)
	return entries[0].EntryID
}

func TestWaitIsWoken(t *testing.T) {
	quietly(t, nil, func(q *quiet) {
		a := q.ask(q.b, 0, "?timeout=60000")
		batch := q.ask(q.b, 0, "?timeout=60000&limit=5")
		time.Sleep(10 * time.Second)
		q.put(q.a, "another's")
		synctest.Wait()
		require.True(q, a.waits())
		require.Equal(q, 2, q.server.Waiting())
		require.Zero(q, q.server.Held())
		require.Zero(q, q.server.HeldByAnswers())

		q.put(q.b, "1")
		entry := a.requireMail(q, "1")
		require.Equal(q, entry, batch.requireMail(q, "1"))
		require.Equal(q, 10*time.Second, a.took)
		require.Zero(q, q.server.Waiting())

		q.ask(q.b, 0, "?timeout=60000").requireMail(q, "1")
		next := q.ask(q.b, entry, "?timeout=60000")
		require.True(q, next.waits(), "the first is acknowledged")
		q.put(q.b, "2")
		second := next.requireMail(q, "2")

		// The entries after the second, which isn't acknowledged.
		behind := q.ask(q.b, 0, fmt.Sprintf("?timeout=60000&after=%d", second))
		require.True(q, behind.waits())
		q.put(q.b, "3")
		behind.requireMail(q, "3")
	})
}

func TestWaitEnds(t *testing.T) {
	quietly(t, func(c *relay.Config) { c.MaxWait = time.Minute }, func(q *quiet) {
		for query, want := range map[string]time.Duration{
			"": 0, "?timeout=0": 0, "?timeout=1": time.Millisecond, "?timeout=59000": 59 * time.Second,
			"?timeout=60001": time.Minute, "?timeout=9223372036854775807": time.Minute,
			fmt.Sprintf("?timeout=5000&after=%d", int64(1)<<60): 5 * time.Second,
		} {
			a := q.ask(q.b, 0, query)
			a.requireEmpty(q, wire.EmptyAnswer)
			require.Equal(q, want, a.took, query)
		}
		a := q.ask(q.b, 0, "?limit=1&timeout=1000")
		a.requireEmpty(q, wire.EmptyTaking)
		require.Equal(q, time.Second, a.took)
	})
}

func TestWaitsOff(t *testing.T) {
	for _, change := range []func(*relay.Config){
		func(c *relay.Config) { c.MaxWait = -1 }, func(c *relay.Config) { c.MaxWaiting = -1 },
	} {
		quietly(t, change, func(q *quiet) {
			a := q.ask(q.b, 0, "?timeout=1000")
			a.requireEmpty(q, wire.EmptyAnswer)
			require.Zero(q, a.took)
		})
	}
}

// Where there are as many as may be, the oldest of the name that has most ends at the
// address that has most, as if its time were over; and a receiver that goes makes room.
func TestTooManyWaits(t *testing.T) {
	quietly(t, func(c *relay.Config) { c.MaxWaiting = 4 }, func(q *quiet) {
		old := q.askFrom(phoneAddress, q.b, 0, "?timeout=60000")
		flood := []*asked{
			q.askFrom(floodAddress, relaytest.NewNode("one"), 0, "?timeout=60000"),
			q.askFrom(floodAddress, q.a, 0, "?timeout=60000&limit=3"), q.askFrom(floodAddress, q.a, 0, "?timeout=60000"),
		}
		time.Sleep(time.Second)
		next := q.askFrom("198.51.100.7:1", relaytest.NewNode("two"), 0, "?timeout=60000")
		flood[1].requireEmpty(q, wire.EmptyTaking)
		require.Equal(q, time.Second, flood[1].took)
		for _, a := range []*asked{old, next, flood[0], flood[2]} {
			require.True(q, a.waits())
		}
		q.put(q.b, "1")
		old.requireMail(q, "1")

		flood[0].goAway()
		<-flood[0].isThere
		require.NotEqual(q, http.StatusOK, flood[0].answer.Code)
		synctest.Wait()
		require.Equal(q, 2, q.server.Waiting())
		for i := range 2 {
			require.True(q, q.ask(relaytest.NewNode(fmt.Sprint(i)), 0, "?timeout=60000").waits())
		}
		require.True(q, flood[2].waits())
	})
}

// TestWaitsUnderMadeUpNames: strangers that wait under names that they make up, at one
// address, don't take the places of others: their own oldest end.
func TestWaitsUnderMadeUpNames(t *testing.T) {
	const most = 800
	quietly(t, func(c *relay.Config) { c.MaxWaiting = most }, func(q *quiet) {
		old := q.askFrom(phoneAddress, q.b, 0, "?timeout=300000")
		var flood []*asked
		for i := range most {
			flood = append(flood, q.askFrom(floodAddress, relaytest.NewNode(fmt.Sprint(i)), 0, "?timeout=300000"))
		}
		synctest.Wait()
		require.Equal(q, 1+most/32, q.server.Waiting())
		require.True(q, old.waits())
		ended := 0
		for _, a := range flood {
			if !a.waits() {
				a.requireEmpty(q, wire.EmptyAnswer)
				ended++
			}
		}
		require.Equal(q, most-most/32, ended)

		// Where nobody can be told apart, one such network has half.
		for i := range most {
			q.askFrom("[200:1::1]:5", relaytest.NewNode(fmt.Sprint(i)), 0, "?timeout=300000")
		}
		synctest.Wait()
		require.Equal(q, 1+most/32+most/2, q.server.Waiting())
		require.True(q, old.waits())
	})
}

func TestTooManyWaitsOfOne(t *testing.T) {
	quietly(t, nil, func(q *quiet) {
		var waiting []*asked
		for range 16 {
			waiting = append(waiting, q.ask(q.b, 0, "?timeout=60000"))
		}
		waiting = append(waiting, q.ask(q.b, 0, "?timeout=60000"))
		waiting[0].requireEmpty(q, wire.EmptyAnswer)
		require.True(q, q.ask(q.a, 0, "?timeout=60000").waits(), "another has its own")
		q.put(q.b, "1")
		for _, a := range waiting[1:] {
			a.requireMail(q, "1")
		}
		require.Equal(q, 1, q.server.Waiting())
	})
}

// A receiver that waits is answered as if the time were over.
func TestWaitsAreEnded(t *testing.T) {
	for name, end := range map[string]func(*quiet){
		"EndWaits":   func(q *quiet) { q.server.EndWaits() },
		"SetEnabled": func(q *quiet) { q.server.SetEnabled(false) },
		"Close":      func(q *quiet) { require.NoError(q, q.server.Close()) },
	} {
		quietly(t, nil, func(q *quiet) {
			one, batch := q.ask(q.b, 0, "?timeout=60000"), q.ask(q.a, 0, "?timeout=60000&limit=3")
			require.Equal(q, 2, q.server.Waiting())
			time.Sleep(time.Second)
			end(q)
			one.requireEmpty(q, wire.EmptyAnswer)
			batch.requireEmpty(q, wire.EmptyTaking)
			require.Equal(q, time.Second, one.took, name)

			q.server.SetEnabled(true)
			again := q.ask(q.b, 0, "?timeout=1000")
			<-again.isThere
			switch name {
			case "EndWaits":
				require.Zero(q, again.took, "for good")
			case "SetEnabled":
				require.Equal(q, time.Second, again.took, "on again")
			default:
				require.Equal(q, http.StatusServiceUnavailable, again.answer.Code)
			}
		})
	}
}

// A store that fails while somebody waits is a failure of ours.
func TestWaitOnClosedStore(t *testing.T) {
	var config relay.Config
	quietly(t, func(c *relay.Config) { config = *c }, func(q *quiet) {
		a := q.ask(q.b, 0, "?timeout=60000")
		require.NoError(q, config.Store.Close())
		<-a.isThere
		requireError(q, http.StatusInternalServerError, "M_UNKNOWN", a.answer.Code, a.answer.Body.String())
	})
}

// A request that is just about to wait when relaying is switched off doesn't.
func TestNoWaitOnceOff(t *testing.T) {
	var server *relay.Server
	off := func(c *relay.Config) { c.Asked = func(spec.ServerName) { server.SetEnabled(false) } }
	quietly(t, off, func(q *quiet) {
		server = q.server
		a := q.ask(q.b, 0, "?timeout=60000")
		a.requireEmpty(q, wire.EmptyAnswer)
		require.Zero(q, a.took)
	})
}

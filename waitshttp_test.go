package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/pipes"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	generous = time.Minute // for things that take milliseconds
	tick     = time.Millisecond
)

// newWaitingRig is a relay behind an http.Server, which start starts.
func newWaitingRig(t *testing.T, start func(*httptest.Server)) (*quiet, *httptest.Server) {
	q := newQuiet(t, nil)
	web := httptest.NewUnstartedServer(q.server)
	start(web)
	t.Cleanup(web.Close)
	t.Cleanup(q.server.EndWaits) // before that
	return q, web
}

// over makes a request for b's mail over HTTP.
func (q *quiet) over(ctx context.Context, web *httptest.Server, query string) (*http.Response, []byte, error) {
	request, err := q.b.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(q.b.ServerName))+query, json.RawMessage(`{"entry_id":0}`))
	if err != nil {
		return nil, nil, err
	}
	at, err := url.Parse(web.URL)
	if err != nil {
		return nil, nil, err
	}
	request.URL.Scheme, request.URL.Host = at.Scheme, at.Host
	response, err := web.Client().Do(request.WithContext(ctx))
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(response.Body)
	return response, body, errorOf(err, response.Body.Close())
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// A wait may be longer than the time that the http.Server grants a request, and the
// connection is good for more after it.
func TestWaitOutlastsDeadlines(t *testing.T) {
	const granted = time.Second
	for name, start := range map[string]func(*httptest.Server){
		"HTTP/1.1": (*httptest.Server).Start,
		"HTTP/2.0": func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := pipes.Listen()
				q, web := newWaitingRig(t, func(s *httptest.Server) {
					require.NoError(t, s.Listener.Close())
					s.Listener = listener
					s.Config.ReadTimeout, s.Config.WriteTimeout = granted, granted
					start(s)
					s.Client().Transport.(*http.Transport).DialContext = listener.DialContext
				})
				for i := range 2 {
					began := time.Now()
					time.AfterFunc(4*granted, func() { q.put(q.b, fmt.Sprint(i)) })
					response, body, err := q.over(t.Context(), web, "?timeout=60000&limit=3")
					require.NoError(t, err)
					require.Equal(t, 4*granted, time.Since(began))
					require.Equal(t, name, response.Proto)
					require.Equal(t, http.StatusOK, response.StatusCode)
					entries := entriesOf(t, string(body))
					require.Len(t, entries, 1)
					_, body, err = q.over(t.Context(), web, "?timeout=1")
					require.NoError(t, err)
					require.Len(t, entriesOf(t, string(body)), 1)
					request := q.ackAll(entries[0].EntryID)
					require.Equal(t, http.StatusOK, request.Code)
				}
			})
		})
	}
}

// A receiver that waits and doesn't read the answer then is given up in the end.
func TestUnreadAfterWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := pipes.Listen()
		q, _ := newWaitingRig(t, func(s *httptest.Server) {
			require.NoError(t, s.Listener.Close())
			s.Listener = listener
			s.Start()
		})
		request, err := q.b.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(q.b.ServerName))+"?timeout=60000", json.RawMessage(`{"entry_id":0}`))
		require.NoError(t, err)
		conn, err := listener.DialContext(t.Context(), "", "")
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close()) }()
		require.NoError(t, request.Write(conn))
		synctest.Wait()
		require.Equal(t, 1, q.server.Waiting())

		uri := wire.SendRelayURI("1", relaytest.User(q.b.ServerName))
		mail, err := q.a.Request(http.MethodPut, relayName, uri, largeContent(20_000))
		require.NoError(t, err)
		q.server.ServeHTTP(httptest.NewRecorder(), mail)
		time.Sleep(relay.AnswerTime - time.Second)
		require.Zero(t, q.server.Waiting())
		require.Positive(t, q.server.HeldByAnswers())
		time.Sleep(2 * time.Second)
		require.Zero(t, q.server.HeldByAnswers())
	})
}

func (q *quiet) ackAll(entry int64) *httptest.ResponseRecorder {
	a := q.start(q.b, entry, "")
	<-a.isThere
	return a.answer
}

// A node that goes away while it waits frees its place.
func TestWaiterGoesAway(t *testing.T) {
	q, web := newWaitingRig(t, (*httptest.Server).Start)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, _, err := q.over(ctx, web, "?timeout=60000")
		gone <- err
	}()
	require.Eventually(t, func() bool { return q.server.Waiting() == 1 }, generous, tick)
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled)
	require.Eventually(t, func() bool { return q.server.Waiting() == 0 }, generous, tick)
}

// As the comment of EndWaits says.
func TestShutdownEndsWaits(t *testing.T) {
	q, web := newWaitingRig(t, (*httptest.Server).Start)
	web.Config.RegisterOnShutdown(q.server.EndWaits)
	type result struct {
		body []byte
		err  error
	}
	got := make(chan result, 1)
	go func() {
		_, body, err := q.over(context.Background(), web, "?timeout=300000")
		got <- result{body, err}
	}()
	require.Eventually(t, func() bool { return q.server.Waiting() == 1 }, generous, tick)
	ctx, cancel := context.WithTimeout(t.Context(), generous)
	defer cancel()
	require.NoError(t, web.Config.Shutdown(ctx))
	answer := <-got
	require.NoError(t, answer.err)
	require.Equal(t, wire.EmptyAnswer, string(answer.body))
}

// A looks is a store that counts how often somebody looks for mail.
type looks struct {
	store.Store
	count atomic.Int64
}

func (l *looks) Next(ctx context.Context, destination spec.ServerName, after int64, entries int, bytes int64) ([]store.Entry, error) {
	l.count.Add(1)
	return l.Store.Next(ctx, destination, after, entries, bytes)
}

// Many nodes are online and have no mail.
func TestManyWaits(t *testing.T) {
	const nodes, each = 1000, 10
	var mail looks
	q := newQuiet(t, func(c *relay.Config) { mail.Store, c.Store = c.Store, &mail })
	var all []*asked
	var last *relaytest.Node
	before := heap()
	for i := range nodes {
		last = relaytest.NewNode(fmt.Sprint("n", i))
		for range each {
			all = append(all, q.start(last, 0, "?timeout=300000&limit=50"))
		}
	}
	require.Eventually(t, func() bool { return q.server.Waiting() == nodes*each }, generous, tick)
	t.Logf("%d bytes for one that waits, its recorder and request among them", (heap()-before)/(nodes*each))
	require.Zero(t, q.server.Held())
	require.Zero(t, q.server.HeldByAnswers())

	looked := mail.count.Load()
	q.put(last, "1")
	for _, a := range all[len(all)-each:] {
		a.requireMail(t, "1")
	}
	require.Equal(t, (nodes-1)*each, q.server.Waiting())
	require.EqualValues(t, each, mail.count.Load()-looked, "nobody else was woken")
	q.server.EndWaits()
	for _, a := range all[:len(all)-each] {
		a.requireEmpty(t, wire.EmptyBatch)
	}
	require.Zero(t, q.server.Waiting())
}

// heap is how many bytes are in use, stacks too.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

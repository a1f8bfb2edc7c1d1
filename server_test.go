package relay_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store"
)

// A faultyStore fails where it is told to, and can hold Puts back.
type faultyStore struct {
	store.Store
	put, next, ack error
	entered        chan struct{} // gets a token when a Put begins
	hold           chan struct{} // a Put waits for it to be closed
}

func (f *faultyStore) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if f.entered != nil {
		f.entered <- struct{}{}
		<-f.hold
	}
	if f.put != nil {
		return false, f.put
	}
	return f.Store.Put(ctx, mail, limits)
}

func (f *faultyStore) Next(ctx context.Context, destination spec.ServerName, after int64, entries int, bytes int64) ([]store.Entry, error) {
	if f.next != nil {
		return nil, f.next
	}
	return f.Store.Next(ctx, destination, after, entries, bytes)
}

func (f *faultyStore) Ack(ctx context.Context, destination spec.ServerName, id int64) (int, error) {
	if f.ack != nil {
		return 0, f.ack
	}
	return f.Store.Ack(ctx, destination, id)
}

// Close waits for a request that is being stored, however long that takes.
func TestCloseDrains(t *testing.T) {
	faulty := &faultyStore{}
	hold := func(c *relay.Config) {
		faulty.entered, faulty.hold = make(chan struct{}, 1), make(chan struct{})
		faulty.Store = c.Store
		c.Store = faulty
	}
	quietly(t, hold, func(q *quiet) {
		var all, closing sync.WaitGroup
		all.Go(func() { q.put(q.b, "1") })
		<-faulty.entered
		closed := make(chan struct{})
		closing.Go(func() { require.NoError(q, q.server.Close()) })
		go func() { closing.Wait(); close(closed) }()
		time.Sleep(time.Hour)
		early := false
		select {
		case <-closed:
			early = true
		default:
		}
		all.Go(func() { require.NoError(q, q.server.Close()) }) // waits for the first, at a lock
		close(faulty.hold)
		<-closed
		all.Wait()
		require.False(q, early, "Close waits for the request under way")
		late := q.ask(q.b, 0, "")
		requireError(q, http.StatusServiceUnavailable, "M_UNKNOWN", late.answer.Code, late.answer.Body.String())
		usage, err := faulty.Usage(context.Background(), q.b.ServerName)
		require.NoError(q, err, "the embedder's store stays open")
		require.EqualValues(q, 1, usage.Entries)
	})
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := newRig(t, func(c *relay.Config) { c.Registerer = registry })
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.c.ServerName, "1", 0, 100)))
	r.fetch(r.b)
	r.ask(r.a, r.b.ServerName, `{"entry_id":0}`)
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP relay_acknowledged_total Transactions acknowledged by their destination.
# TYPE relay_acknowledged_total counter
relay_acknowledged_total 1
# HELP relay_copies_total Transactions that were there already.
# TYPE relay_copies_total counter
relay_copies_total 1
# HELP relay_entries Transactions waiting to be fetched.
# TYPE relay_entries gauge
relay_entries 1
# HELP relay_requests_total Requests by endpoint and status.
# TYPE relay_requests_total counter
relay_requests_total{endpoint="relay_txn",status="200"} 2
relay_requests_total{endpoint="relay_txn",status="403"} 1
relay_requests_total{endpoint="send_relay",status="200"} 3
# HELP relay_stored_total Transactions taken in.
# TYPE relay_stored_total counter
relay_stored_total 2
`), "relay_requests_total", "relay_stored_total", "relay_copies_total", "relay_acknowledged_total", "relay_entries"))

	_, err := relay.New(relay.Config{ServerName: relayName, Store: r.store, Registerer: registry})
	require.Error(t, err, "two servers can't have the same registry")
	require.NoError(t, r.server.Close())
	second, err := relay.New(relay.Config{ServerName: relayName, Store: r.store, Registerer: registry})
	require.NoError(t, err, "a closed one leaves it")
	require.NoError(t, second.Close())
}

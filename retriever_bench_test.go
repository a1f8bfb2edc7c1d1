package relay_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/sqlite"
	"github.com/matrixrelay/relay/wire"
)

// A link delays requests by a round trip, and counts them.
type link struct {
	http.RoundTripper
	roundTrip time.Duration
	requests  atomic.Int64
}

func (l *link) RoundTrip(r *http.Request) (*http.Response, error) {
	l.requests.Add(1)
	time.Sleep(l.roundTrip)
	return l.RoundTripper.RoundTrip(r)
}

// sqliteRig is a relay on loopback that keeps mail on the disk.
func sqliteRig(b *testing.B) *rig {
	kept, err := sqlite.Open(filepath.Join(b.TempDir(), "relay.db"), sqlite.Options{})
	require.NoError(b, err)
	return newRig(b, func(c *relay.Config) { c.Store = kept })
}

// drainOne fetches one at a time, as deployed nodes do.
func (r *rig) drainOne(b *testing.B, node *relaytest.Node, over http.RoundTripper, want int) time.Duration {
	caller, err := client.NewCaller(client.CallerConfig{Identity: node.SigningIdentity, Transport: over})
	require.NoError(b, err)
	start := time.Now()
	handled, err := caller.Drain(b.Context(), relayName, func(context.Context, wire.Answer) error { return nil })
	require.NoError(b, err)
	require.Equal(b, want, handled)
	return time.Since(start)
}

// drainBatches fetches as our receivers do.
func (r *rig) drainBatches(b *testing.B, node *relaytest.Node, over http.RoundTripper, want int) time.Duration {
	receiver := r.receiver(b, node, over, func(client.Received) {})
	start := time.Now()
	d := receiver.Sync(b.Context())[0]
	require.NoError(b, d.Err)
	require.Equal(b, want, d.Handled)
	return time.Since(start)
}

func (r *rig) receiver(b *testing.B, node *relaytest.Node, over http.RoundTripper, handle func(client.Received)) *client.Receiver {
	caller, err := client.NewCaller(client.CallerConfig{Identity: node.SigningIdentity, Transport: over})
	require.NoError(b, err)
	peers := client.NewPeers()
	require.NoError(b, peers.AddRelays(b.Context(), node.ServerName, relayName))
	receiver, err := client.NewReceiver(client.ReceiverConfig{
		Caller: caller, Peers: peers, Logger: slog.New(slog.DiscardHandler),
		Handle: func(_ context.Context, received client.Received) error { handle(received); return nil },
	})
	require.NoError(b, err)
	return receiver
}

// BenchmarkDrainFar fetches 1,000 transactions over a link with a round trip of
// 100 ms, one at a time and in batches. "needed" compares the time of the
// batches with that of their round trips.
func BenchmarkDrainFar(b *testing.B) {
	const count, roundTrip = 1000, 100 * time.Millisecond
	r := sqliteRig(b)
	var one, batches time.Duration
	var requests int64
	for range b.N {
		fillNumbered(b, r, r.b.ServerName, count)
		one += r.drainOne(b, r.b, &link{RoundTripper: r.network, roundTrip: roundTrip}, count)
		fillNumbered(b, r, r.b.ServerName, count)
		far := &link{RoundTripper: r.network, roundTrip: roundTrip}
		batches += r.drainBatches(b, r.b, far, count)
		requests += far.requests.Load()
	}
	b.ReportMetric(one.Seconds()/float64(b.N), "s/one-by-one")
	b.ReportMetric(batches.Seconds()/float64(b.N), "s/batches")
	b.ReportMetric(one.Seconds()/batches.Seconds(), "ratio")
	b.ReportMetric(batches.Seconds()/(float64(requests)*roundTrip.Seconds()), "needed")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkDrain fetches 10,000 transactions of 7.5 KB over loopback, one at a
// time and in batches.
func BenchmarkDrain(b *testing.B) {
	const count = 10_000
	r := sqliteRig(b)
	var one, batches time.Duration
	for range b.N {
		fillNumbered(b, r, r.b.ServerName, count)
		one += r.drainOne(b, r.b, r.network, count)
		fillNumbered(b, r, r.b.ServerName, count)
		batches += r.drainBatches(b, r.b, r.network, count)
	}
	total := float64(b.N * count)
	b.ReportMetric(total/one.Seconds(), "one-by-one/s")
	b.ReportMetric(total/batches.Seconds(), "batches/s")
	b.ReportMetric(one.Seconds()/batches.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

var numbered atomic.Int64

// fillNumbered leaves transactions of 5 PDUs of 1.5 KB, no two of them alike,
// as their sender signs them.
func fillNumbered(b *testing.B, r *rig, to spec.ServerName, count int) {
	var all sync.WaitGroup
	for worker := range 32 {
		all.Go(func() {
			for i := worker; i < count; i += 32 {
				t := r.a.Transaction(to, fmt.Sprint("t", numbered.Add(1)), 5, 1500)
				if err := r.send(r.a, t); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// BenchmarkWake has 1,000 receivers wait, and takes the time from the answer to
// a PUT until the receiver of its destination has the transaction.
func BenchmarkWake(b *testing.B) {
	const receivers, rounds = 1000, 500
	r := sqliteRig(b)
	ctx, cancel := context.WithCancel(b.Context())
	var all sync.WaitGroup
	arrived := make(chan time.Time, 1)
	nodes := make([]*relaytest.Node, receivers)
	for i := range nodes {
		nodes[i] = relaytest.NewNode(fmt.Sprint("waiting", i))
		receiver := r.receiver(b, nodes[i], r.network, func(client.Received) { arrived <- time.Now() })
		all.Go(func() { _ = receiver.Run(ctx) })
	}
	require.Eventually(b, func() bool { return r.server.Waiting() == receivers }, time.Minute, time.Millisecond)
	var took []time.Duration
	for round := range b.N * rounds {
		to := nodes[round%receivers].ServerName
		require.NoError(b, r.send(r.a, r.a.Transaction(to, fmt.Sprint("t", numbered.Add(1)), 5, 1500)))
		answered := time.Now()
		took = append(took, max(0, (<-arrived).Sub(answered)))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs/median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs/99th")
	b.ReportMetric(0, "ns/op")
	cancel()
	all.Wait()
}

// BenchmarkRelayTxn compares the cost of an answer from a queue of 100 and from
// one of 100,000 transactions of 7.5 KB, measured in turn on one SQLite file.
func BenchmarkRelayTxn(b *testing.B) {
	kept, err := sqlite.Open(filepath.Join(b.TempDir(), "relay.db"), sqlite.Options{})
	require.NoError(b, err)
	defer func() { require.NoError(b, kept.Close()) }()
	r := newRig(b, func(c *relay.Config) { c.Store = kept })
	fill(b, kept, r.b.ServerName, 100)
	fill(b, kept, r.c.ServerName, 100_000)

	const each = 200
	var shallow, deep time.Duration
	for range b.N {
		shallow += ask(b, r, r.b, each)
		deep += ask(b, r, r.c, each)
	}
	answers := float64(b.N * each)
	b.ReportMetric(float64(shallow.Microseconds())/answers, "µs/of100")
	b.ReportMetric(float64(deep.Microseconds())/answers, "µs/of100000")
	b.ReportMetric(deep.Seconds()/shallow.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

// ask gets that many answers, without acknowledging any.
func ask(b *testing.B, r *rig, node *relaytest.Node, count int) time.Duration {
	var took time.Duration
	for range count {
		request, err := node.Request(http.MethodGet, relayName, "/_matrix/federation/v1/relay_txn/@user:"+string(node.ServerName), fclient.RelayEntry{})
		require.NoError(b, err)
		w := httptest.NewRecorder()
		start := time.Now()
		r.server.ServeHTTP(w, request)
		took += time.Since(start)
		require.Equal(b, http.StatusOK, w.Code)
		require.Greater(b, w.Body.Len(), 7000)
	}
	return took
}

// fill puts transactions for a destination, past the server.
func fill(b *testing.B, s store.Store, destination spec.ServerName, count int) {
	body, err := json.Marshal(relaytest.NewNode("a").Transaction(destination, "1", 5, 1500))
	require.NoError(b, err)
	var all sync.WaitGroup
	for worker := range 64 {
		all.Go(func() {
			for i := worker; i < count; i += 64 {
				mail := store.Mail{Destination: destination, Origin: "a", TransactionID: "1", Body: body}
				binary.BigEndian.PutUint64(mail.Digest[:], uint64(i))
				if _, err := s.Put(context.Background(), mail, store.Limits{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
}

package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
	"github.com/matrixrelay/relay/store/internal/seal"
	"github.com/matrixrelay/relay/store/storetest"
)

// patience is how long tests wait for something that has to happen: much longer
// than it takes, as the machine may be slow or busy.
const patience = 3 * time.Minute

// startServer starts a server in this process, which ends with the test.
func startServer(tb testing.TB, change func(*server.Options)) *server.Server {
	options := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, StoreDir: serverDir(tb), JetStream: true, NoLog: true, NoSigs: true,
	}
	if change != nil {
		change(options)
	}
	s, err := server.NewServer(options)
	require.NoError(tb, err)
	s.Start()
	tb.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if options.Cluster.Port == 0 {
		require.True(tb, s.ReadyForConnections(patience))
	}
	return s
}

func testOptions(s *server.Server) Options {
	o := Options{SweepInterval: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	if s != nil {
		o.URL = s.ClientURL()
	}
	return o
}

func open(tb testing.TB, o Options) *Store {
	tb.Helper()
	s, err := Open(tb.Context(), o)
	require.NoError(tb, err)
	return s
}

// newJob returns work that hasn't been queued.
func newJob(tb testing.TB, run func(*batch) error) *job {
	return group.NewJob(tb.Context(), &work{run: run, end: time.Now().Add(patience)}, 0)
}

// purgeEntry takes the message of an entry away, behind the back of the store.
func purgeEntry(tb testing.TB, s *Store, destination spec.ServerName, id int64) {
	tb.Helper()
	stream, err := s.engine.js.Stream(tb.Context(), s.options.Stream)
	require.NoError(tb, err)
	subject := s.cache.subjects.mail(entryKey(tb, s, destination, id))
	require.NoError(tb, stream.Purge(tb.Context(), jetstream.WithPurgeSubject(subject)))
}

// overwriteEntry puts something else in its place.
func overwriteEntry(tb testing.TB, s *Store, destination spec.ServerName, id int64) {
	tb.Helper()
	subject := s.cache.subjects.mail(entryKey(tb, s, destination, id))
	_, err := s.engine.js.Publish(tb.Context(), subject, []byte("not mail"))
	require.NoError(tb, err)
}

// damaging damages an entry in a store that it opens.
func damaging(
	openIt func(testing.TB, time.Duration) *Store, damage func(testing.TB, *Store, spec.ServerName, int64),
) func(testing.TB, spec.ServerName, int64) {
	return func(tb testing.TB, destination spec.ServerName, id int64) {
		s := openIt(tb, 0)
		defer func() { require.NoError(tb, s.Close()) }()
		damage(tb, s, destination, id)
	}
}

// entryKey returns the key of an entry, which its subjects have.
func entryKey(tb testing.TB, s *Store, destination spec.ServerName, id int64) (key seal.Key) {
	tb.Helper()
	items, err := s.list(tb.Context(), query{destination: destination, after: id - 1, entries: 1})
	require.NoError(tb, err)
	require.NotEmpty(tb, items)
	require.Equal(tb, id, items[0].id)
	return items[0].key
}

func TestStore(t *testing.T) {
	t.Parallel()
	runSuite(t, startServer(t, nil))
}

// runSuite runs the suite on servers that keep a stream for each test; each store
// is connected to another server.
func runSuite(t *testing.T, servers ...*server.Server) {
	admin := open(t, testOptions(servers[0]))
	t.Cleanup(func() { require.NoError(t, admin.Close()) })
	var opened atomic.Int64
	streams := &streamPool{admin: admin, servers: servers}
	storetest.Run(t, func(tb testing.TB) storetest.Place {
		stream := streams.take(tb)
		openIt := func(tb testing.TB, retention time.Duration) *Store {
			o := testOptions(servers[int(opened.Add(1))%len(servers)])
			o.Stream, o.Retention = stream, retention
			return open(tb, o)
		}
		return storetest.Place{
			Shared: true,
			Open:   func(tb testing.TB, retention time.Duration) store.Store { return openIt(tb, retention) },
			OpenFew: func(tb testing.TB, ofAll, ofOrigin int64) store.Store {
				o := testOptions(servers[int(opened.Add(1))%len(servers)])
				o.Stream, o.MaxCopies, o.MaxCopiesOfOrigin = stream, ofAll, ofOrigin
				return open(tb, o)
			},
			Copy: func(tb testing.TB) func(testing.TB) {
				b := backUp(tb, admin, stream)
				return func(tb testing.TB) { b.restore(tb, admin, stream) }
			},
			Abilities: storetest.Abilities{Notes: true, Batches: true, Timed: true, Failing: true, Measured: true, Committing: true, Managed: true},
			Damage: map[string]func(testing.TB, spec.ServerName, int64){
				"message gone":    damaging(openIt, purgeEntry),
				"another message": damaging(openIt, overwriteEntry),
			},
		}
	})
}

// A streamPool lends streams that are empty: servers in a cluster take longer to
// make a stream than a test takes.
type streamPool struct {
	admin   *Store
	servers []*server.Server
	mu      sync.Mutex
	made    int
	free    []string
}

// take returns the name of a stream, which another test may have when this ends.
func (p *streamPool) take(tb testing.TB) (stream string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		stream, p.free = p.free[n-1], p.free[:n-1]
	} else {
		p.made++
		stream = fmt.Sprint("RELAY", p.made)
	}
	tb.Cleanup(func() {
		used, err := p.admin.engine.js.Stream(context.Background(), stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return // the test didn't open it
		}
		require.NoError(tb, err)
		require.NoError(tb, used.Purge(context.Background()))
		p.awaitPurge(tb, used)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.free = append(p.free, stream)
	})
	return stream
}

// awaitPurge waits until all servers have purged the stream: a store that is opened at one
// that lags behind reads the mail of the test before.
func (p *streamPool) awaitPurge(tb testing.TB, purged jetstream.Stream) {
	info, err := purged.Info(context.Background())
	require.NoError(tb, err)
	for _, s := range p.servers {
		require.Eventually(tb, func() bool {
			first, err := firstSequence(s, info.Config.Name)
			return err == nil && first >= info.State.FirstSeq
		}, patience, time.Millisecond, "%s still has mail in %s", s.Name(), info.Config.Name)
	}
}

// firstSequence is that of the first message that a server has of a stream, or would have.
func firstSequence(s *server.Server, stream string) (uint64, error) {
	info, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return 0, err
	}
	for _, account := range info.AccountDetails {
		for _, detail := range account.Streams {
			if detail.Name == stream {
				return detail.State.FirstSeq, nil
			}
		}
	}
	return 0, fmt.Errorf("%s has no stream %s", s.Name(), stream)
}

package jetstream

import (
	"log/slog"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/storetest"
)

// startServer starts a server in this process, which ends with the test.
func startServer(tb testing.TB, change func(*server.Options)) *server.Server {
	options := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, StoreDir: tb.TempDir(), JetStream: true, NoLog: true, NoSigs: true,
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
		require.True(tb, s.ReadyForConnections(10*time.Second))
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

// damageEntry makes an entry unreadable behind the back of the store: half of
// them are gone, in the place of the others is something else.
func damageEntry(tb testing.TB, srv *server.Server, destination spec.ServerName, id int64) {
	tb.Helper()
	s := open(tb, testOptions(srv))
	defer func() { require.NoError(tb, s.Close()) }()
	subject := s.cache.subjects.mail(entryKey(tb, s, destination, id))
	stream, err := s.engine.js.Stream(tb.Context(), s.options.Stream)
	require.NoError(tb, err)
	if id%2 == 0 {
		require.NoError(tb, stream.Purge(tb.Context(), jetstream.WithPurgeSubject(subject)))
		return
	}
	_, err = s.engine.js.Publish(tb.Context(), subject, []byte("not mail"))
	require.NoError(tb, err)
}

// entryKey returns the key of an entry, which its subjects have.
func entryKey(tb testing.TB, s *Store, destination spec.ServerName, id int64) (key mailKey) {
	tb.Helper()
	b, _, err := s.reader.box(tb.Context(), destination)
	require.NoError(tb, err)
	require.NotNil(tb, b)
	err = s.reader.each(tb.Context(), destination, b, id, func(i item) bool {
		require.Equal(tb, id, i.id)
		key = i.key
		return false
	})
	require.NoError(tb, err)
	return key
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(tb testing.TB) storetest.Place {
		s := startServer(tb, nil)
		return storetest.Place{
			Shared: true,
			Damage: func(tb testing.TB, destination spec.ServerName, id int64) { damageEntry(tb, s, destination, id) },
			Open: func(tb testing.TB, retention time.Duration) store.Store {
				o := testOptions(s)
				o.Retention = retention
				return open(tb, o)
			},
		}
	})
}

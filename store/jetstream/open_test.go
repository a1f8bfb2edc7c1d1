package jetstream

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

func TestOpenFails(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	o := testOptions(srv)
	s := open(t, o)
	_, err := s.engine.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", AllowAtomicPublish: true})
	require.NoError(t, err)
	require.NoError(t, s.Close())

	o.Stream = "OTHER"
	_, err = Open(t.Context(), o)
	require.ErrorIs(t, err, errForeign)
	o.Stream, o.Replicas = "THREE", 3
	_, err = Open(t.Context(), o)
	require.ErrorContains(t, err, "replicas > 1 not supported")
	o.URL = "nats://127.0.0.1:1"
	_, err = Open(t.Context(), o)
	require.ErrorIs(t, err, nats.ErrNoServers)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Open(ctx, testOptions(srv))
	require.ErrorIs(t, err, context.Canceled)
}

// A connection that was given is left open, and a store whose connection is
// closed says so at once.
func TestGivenConnection(t *testing.T) {
	t.Parallel()
	conn, err := nats.Connect(startServer(t, nil).ClientURL())
	require.NoError(t, err)
	defer conn.Close()
	o := testOptions(nil)
	o.Conn = conn
	s := open(t, o)
	put(t, s, testMail("first"))
	require.NoError(t, s.Close())
	require.False(t, conn.IsClosed())

	s = open(t, o)
	conn.Close()
	_, err = s.Put(t.Context(), testMail("second"), store.Limits{})
	require.ErrorIs(t, err, nats.ErrConnectionClosed)
	require.ErrorIs(t, err, store.ErrReopen)
	requireFailed(t, s, nats.ErrConnectionClosed)
	require.NoError(t, s.Close())
}

// Closing is no failure, although it closes the connection.
func TestCloseIsNoFailure(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	require.NoError(t, s.engine.conn.ForceReconnect()) // so that there is something to watch
	require.NoError(t, s.Close())
	require.True(t, s.engine.conn.IsClosed())
	require.NoError(t, s.Failure())
}

// Mail that the server has no room for is ErrFull.
func TestServerFull(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	stream, err := s.engine.js.Stream(t.Context(), s.options.Stream)
	require.NoError(t, err)
	config := stream.CachedInfo().Config
	config.MaxBytes = 20_000
	_, err = s.engine.js.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	large := testMail("large")
	large.Body = make([]byte, 30_000)
	_, err = s.Put(t.Context(), large, store.Limits{})
	require.ErrorIs(t, err, store.ErrFull)
	put(t, s, testMail("small"))
}

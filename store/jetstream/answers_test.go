package jetstream

import (
	"bytes"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A cutter makes connections that break right after a commit was sent, when
// told to: the commit is made, and its answer is lost.
type cutter struct{ armed atomic.Bool }

func (c *cutter) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &cutConn{conn, c}, err
}

type cutConn struct {
	net.Conn
	by *cutter
}

func (c *cutConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if bytes.Contains(b, []byte("Nats-Batch-Commit")) && c.by.armed.CompareAndSwap(true, false) {
		time.Sleep(20 * time.Millisecond)
		_ = c.Close()
	}
	return n, err
}

// A Put whose answer was lost finds out that it has stored its mail, an Ack that
// it has removed it.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	cut := &cutter{}
	conn, err := nats.Connect(startServer(t, nil).ClientURL(), nats.SetCustomDialer(cut),
		nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	require.NoError(t, err)
	defer conn.Close()
	o := testOptions(nil)
	o.Conn, o.SweepInterval = conn, time.Hour
	s := open(t, o)
	defer func() { require.NoError(t, s.Close()) }()
	const n = 3
	for i := range n {
		cut.armed.Store(true)
		stored, err := s.Put(t.Context(), testMail(fmt.Sprint(i)), store.Limits{Entries: n})
		require.NoError(t, err)
		require.True(t, stored)
		require.False(t, cut.armed.Load(), "the answer wasn't lost")
	}
	entries := next(t, s, "b.example")
	require.Len(t, entries, n)
	for i, entry := range entries {
		require.EqualValues(t, fmt.Sprint(i), entry.TransactionID)
	}
	cut.armed.Store(true)
	_, err = s.Ack(t.Context(), "b.example", entries[n-2].ID)
	require.NoError(t, err)
	require.Len(t, next(t, s, "b.example"), 1)
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.EqualValues(t, 1, usage.Entries)
}

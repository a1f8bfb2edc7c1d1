package jetstream

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A cutter makes connections that break, when told to, as soon as the answer to
// a commit is there: the commit is made, and its answer is lost.
type cutter struct {
	armed atomic.Bool
	lost  atomic.Int64 // how many answers
	then  func()       // called before the connection breaks

	commits atomic.Int64 // that were sent
}

func (c *cutter) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &cutConn{Conn: conn, by: c}, err
}

type cutConn struct {
	net.Conn
	by      *cutter
	cut     atomic.Bool
	reading sync.Mutex
}

func (c *cutConn) Write(b []byte) (int, error) {
	if !bytes.Contains(b, []byte("Nats-Batch-Commit")) {
		return c.Conn.Write(b)
	}
	c.by.commits.Add(1)
	if !c.by.armed.CompareAndSwap(true, false) {
		return c.Conn.Write(b)
	}
	c.cut.Store(true)
	_ = c.SetReadDeadline(time.Now()) // a read that is under way stops
	c.reading.Lock()
	defer c.reading.Unlock()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	n, err := c.Conn.Write(b)
	var answers []byte
	for err == nil && !bytes.Contains(answers, []byte(`"batch":`)) {
		some := make([]byte, 4096)
		var size int
		size, err = c.Conn.Read(some)
		answers = append(answers, some[:size]...)
	}
	if err == nil {
		c.by.lost.Add(1)
	}
	if c.by.then != nil {
		c.by.then()
	}
	_ = c.Close()
	return n, err
}

// openThrough opens a store whose connections are made by a dialer.
func openThrough(t *testing.T, srv *server.Server, dialer nats.CustomDialer) *Store {
	conn, err := nats.Connect(srv.ClientURL(), nats.SetCustomDialer(dialer),
		nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	o := testOptions(nil)
	o.Conn, o.SweepInterval = conn, time.Hour
	s := open(t, o)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// Nor is it told that there is no room, by a server that has got full meanwhile.
func TestLostAnswerOfFullServer(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	cut := &cutter{then: func() {
		little := server.JetStreamAccountLimits{MaxMemory: -1, MaxStore: 1, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1}
		assert.NoError(t, srv.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": little}))
	}}
	s := openThrough(t, srv, cut)
	cut.armed.Store(true)
	put(t, s, testMail("first"))
	require.EqualValues(t, 1, cut.lost.Load())
	_, err := s.Put(t.Context(), testMail("second"), store.Limits{})
	require.ErrorIs(t, err, store.ErrFull)
}

func (c *cutConn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.cut.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Read(b)
}

// A Put whose answer was lost finds out that it has stored its mail, an Ack that
// it has removed it.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	cut := &cutter{}
	s := openThrough(t, startServer(t, nil), cut)
	const n = 3
	for i := range n {
		cut.armed.Store(true)
		stored, err := s.Put(t.Context(), testMail(fmt.Sprint(i)), store.Limits{Entries: n})
		require.NoError(t, err)
		require.True(t, stored)
		require.EqualValues(t, i+1, cut.lost.Load())
		destinations, err := s.Destinations(t.Context(), "", 1)
		require.NoError(t, err)
		require.Len(t, destinations, 1, "mail whose Put was answered is listed")
	}
	entries := next(t, s, "b.example")
	require.Len(t, entries, n)
	for i, entry := range entries {
		require.EqualValues(t, fmt.Sprint(i), entry.TransactionID)
	}
	cut.armed.Store(true)
	_, err := s.Ack(t.Context(), "b.example", entries[n-2].ID)
	require.NoError(t, err)
	require.EqualValues(t, n+1, cut.lost.Load())
	require.Len(t, next(t, s, "b.example"), 1)
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.EqualValues(t, 1, usage.Entries)
}

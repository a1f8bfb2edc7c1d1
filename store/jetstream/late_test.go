package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A lateDialer makes connections that seem to break at every fifth commit, which
// reaches the server a moment later: by turns at any, and when the client has
// made its next commit, which repeats it.
type lateDialer struct {
	commits, late, repeated atomic.Int64
	sending                 sync.WaitGroup
}

func (d *lateDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &lateConn{Conn: conn, by: d}, err
}

type lateConn struct {
	net.Conn
	by   *lateDialer
	lost atomic.Bool
}

func (c *lateConn) Write(b []byte) (int, error) {
	if !bytes.Contains(b, []byte("Nats-Batch-Commit")) {
		return c.Conn.Write(b)
	}
	number := c.by.commits.Add(1)
	if number%5 != 0 {
		return c.Conn.Write(b)
	}
	c.lost.Store(true)
	_ = c.SetReadDeadline(time.Now())
	rest := bytes.Clone(b)
	c.by.sending.Go(func() {
		for end := time.Now().Add(10 * time.Second); number%10 == 0 && c.by.commits.Load() == number && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(rand.N(40 * time.Millisecond))
		repeated := c.by.commits.Load() > number
		if _, err := c.Conn.Write(rest); err != nil {
			return
		}
		c.by.late.Add(1)
		if repeated {
			c.by.repeated.Add(1)
		}
		time.Sleep(20 * time.Millisecond)
		_ = c.Conn.Close()
	})
	return 0, net.ErrClosed
}

func (c *lateConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.lost.Load() {
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *lateConn) Close() error {
	if c.lost.Load() { // when it has sent the rest
		return nil
	}
	return c.Conn.Close()
}

// Batches that arrive after they were repeated, or after another process's, store
// nothing twice, lose nothing, and exceed no limit.
func TestLateBatches(t *testing.T) {
	t.Parallel()
	srv := startServer(t, nil)
	const each, limit = 20, 7
	var putting, receiving sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stores [2]*Store
	var dialers [2]lateDialer
	for i := range stores {
		stores[i] = openThrough(t, srv, &dialers[i])
		defer dialers[i].sending.Wait()
	}
	var seen [2]map[gomatrixserverlib.TransactionID]int64
	var received atomic.Int64
	for i, s := range stores {
		to := spec.ServerName(fmt.Sprint(i))
		receiving.Go(func() { seen[i] = receiveAll(ctx, t, s, to, limit, &received) })
		for p := range 8 { // half of them at the other process
			putting.Go(func() { putUntilStored(t, stores[p%2], to, fmt.Sprint(p), each, limit) })
		}
	}
	putting.Wait()
	require.Eventually(t, func() bool {
		// A process may count zero before it hears of the mail that the other one stored last.
		usage, err := stores[0].Usage(t.Context(), "")
		return err == nil && usage == store.Usage{} && received.Load() >= 2*8*each
	}, time.Minute, 10*time.Millisecond)
	cancel()
	receiving.Wait()
	require.Len(t, seen[0], 8*each)
	require.Len(t, seen[1], 8*each)
	for i := range dialers {
		require.Positive(t, dialers[i].late.Load())
		require.Positive(t, dialers[i].repeated.Load())
	}
}

func putUntilStored(t *testing.T, s *Store, to spec.ServerName, by string, n, limit int64) {
	for i := range n {
		mail := testMail(fmt.Sprint(by, "/", i))
		mail.Destination = to
		for {
			_, err := s.Put(t.Context(), mail, store.Limits{Entries: limit})
			if err == nil {
				break
			}
			if !errors.Is(err, store.ErrFull) {
				assert.NoError(t, err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// receiveAll acknowledges all mail until ctx ends, and returns it. It adds the number
// to received as it goes.
func receiveAll(ctx context.Context, t *testing.T, s *Store, to spec.ServerName, limit int, received *atomic.Int64) map[gomatrixserverlib.TransactionID]int64 {
	seen, last := make(map[gomatrixserverlib.TransactionID]int64), int64(0)
	for s.Wait(ctx, to, last) == nil {
		entries, err := s.Next(ctx, to, 0, 100, 1<<20)
		if err != nil {
			continue
		}
		assert.LessOrEqual(t, len(entries), limit)
		for _, e := range entries {
			assert.Greater(t, e.ID, last)
			assert.NotContains(t, seen, e.TransactionID)
			seen[e.TransactionID], last = e.ID, e.ID
		}
		received.Add(int64(len(entries)))
		_, err = s.Ack(context.WithoutCancel(ctx), to, last)
		assert.NoError(t, err)
	}
	return seen
}

package bounded_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/internal/pipes"
)

// usable is a connection as a relay uses it.
type usable interface {
	net.Conn
	Use(bytes int)
	CountFor(server spec.ServerName)
}

// An unusedRig has a listener with a bound, and makes connections to it.
type unusedRig struct {
	*testing.T
	pipes    *pipes.Listener
	listener *bounded.Listener
	at       netip.Addr
}

func newUnusedRig(t *testing.T, perSecond int) *unusedRig {
	r := &unusedRig{T: t, pipes: pipes.Listen()}
	r.listener = bounded.Listen(r.pipes, bounded.Options{
		Unused: perSecond, Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Address: func(net.Conn) netip.Addr { return r.at },
	})
	return r
}

// A line is a connection, and its end at the client.
type line struct {
	*unusedRig
	usable
	client net.Conn
}

func (r *unusedRig) dial(from string) *line {
	r.Helper()
	r.at = netip.MustParseAddr(from)
	c, theirs := accepted(r, r.pipes, r.listener)
	l := &line{r, c.(usable), theirs}
	r.Cleanup(func() { _, _ = l.client.Close(), c.Close() })
	return l
}

// brings has bytes come on the line, and returns how long they were held.
func (l *line) brings(bytes int) time.Duration {
	l.Helper()
	began := time.Now()
	go func() { _, _ = l.client.Write(make([]byte, bytes)) }()
	_, err := io.CopyN(io.Discard, l.usable, int64(bytes))
	require.NoError(l, err)
	return time.Since(began)
}

// Bytes that no request uses come at the rate of an address, after a rest some at once.
func TestUnusedBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, free = 1000, 16 * 1000
		r := newUnusedRig(t, rate)
		one, two := r.dial("192.0.2.1"), r.dial("192.0.2.1")
		require.Zero(t, one.brings(free))
		require.Zero(t, one.brings(rate), "the next is held")
		require.Equal(t, time.Second, one.brings(1).Round(time.Second/100))
		require.Zero(t, two.brings(rate), "its address's other connection hasn't been paused yet")
		require.GreaterOrEqual(t, two.brings(1), time.Second)
		require.Zero(t, r.dial("192.0.2.2").brings(free))
		require.Zero(t, r.dial("10.0.0.1").brings(100*free), "a proxy's")
		require.Zero(t, r.dial("127.0.0.1").brings(4*free), "of many parties")

		time.Sleep(time.Hour)
		for range 10 {
			require.Zero(t, one.brings(free))
			one.Use(2 * free)
		}
		require.Zero(t, one.brings(free), "and no more are saved up")
		one.brings(1)
		require.Positive(t, one.brings(1))

		one.brings(100 * free)
		require.LessOrEqual(t, one.brings(1), time.Minute)
		one.CountFor("member")
		one.brings(1) // after the pause that it has
		require.Zero(t, one.brings(free-1), "it counts for itself")
		one.brings(rate)
		require.Positive(t, one.brings(1))
		one.CountFor("")
		require.Positive(t, one.brings(1))
	})
}

// Without a bound nothing is held.
func TestUnusedUnlimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := newUnusedRig(t, 0).dial("192.0.2.1")
		one.CountFor("member")
		require.Zero(t, one.brings(10<<20))
		one.Use(1)
		require.Zero(t, one.brings(10<<20))
	})
}

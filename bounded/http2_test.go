package bounded_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/internal/pipes"
)

// http2Rig has a listener whose connections come from the address that the test says.
type http2Rig struct {
	*testing.T
	pipes    *pipes.Listener
	listener *bounded.Listener
	config   *tls.Config
	at       netip.Addr
}

func newHTTP2Rig(t *testing.T) *http2Rig {
	r := &http2Rig{T: t, pipes: pipes.Listen()}
	r.listener = bounded.Listen(r.pipes, bounded.Options{
		PerSecond: -1, Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Address: func(net.Conn) netip.Addr { return r.at },
	})
	r.config = r.listener.BoundHTTP2(&tls.Config{ServerName: "relay.example"})
	return r
}

// accepted makes a connection, and returns both of its ends.
func accepted(t testing.TB, dialer *pipes.Listener, listener net.Listener) (ours, theirs net.Conn) {
	t.Helper()
	dialed := make(chan net.Conn, 1)
	go func() {
		c, _ := dialer.DialContext(t.Context(), "", "")
		dialed <- c
	}()
	ours, err := listener.Accept()
	require.NoError(t, err)
	return ours, <-dialed
}

// accept makes a connection from an address.
func (r *http2Rig) accept(from string) net.Conn {
	r.Helper()
	r.at = netip.MustParseAddr(from)
	c, theirs := accepted(r, r.pipes, r.listener)
	r.Cleanup(func() { _ = theirs.Close() })
	return c
}

// offer reports whether a connection gets HTTP/2 that a client offers for it.
func (r *http2Rig) offer(c net.Conn, protocols ...string) bool {
	r.Helper()
	config, err := r.config.GetConfigForClient(&tls.ClientHelloInfo{Conn: c, SupportedProtos: protocols})
	require.NoError(r, err)
	if config == nil {
		return true
	}
	require.Equal(r, []string{"http/1.1"}, config.NextProtos)
	require.Equal(r, "relay.example", config.ServerName)
	return false
}

// isHTTP2 makes a connection from an address and reports whether it gets HTTP/2.
func (r *http2Rig) isHTTP2(from string) bool {
	r.Helper()
	return r.offer(r.accept(from), "h2", "http/1.1")
}

// An address has few connections with HTTP/2, and others without it. When one is closed,
// there is room for another.
func TestHTTP2OfOneAddress(t *testing.T) {
	r := newHTTP2Rig(t)
	const each, shared = 512 / 32, 512 / 8
	first := r.accept("192.0.2.1")
	require.True(t, r.offer(first, "http/1.1"), "one that doesn't ask for it isn't counted")
	for range each - 1 {
		require.True(t, r.isHTTP2("192.0.2.1"))
	}
	last := r.accept("192.0.2.1")
	require.True(t, r.offer(last, "h2", "http/1.1"))
	require.False(t, r.isHTTP2("192.0.2.1"))
	require.True(t, r.isHTTP2("2001:db8::1"), "others have theirs")
	for range 2 * shared {
		require.True(t, r.isHTTP2("10.0.0.1"), "a proxy's aren't counted")
	}
	for range shared {
		require.True(t, r.isHTTP2("127.0.0.1"))
	}
	require.False(t, r.isHTTP2("127.0.0.1"))

	for range 2 {
		_ = last.Close()
	}
	require.False(t, r.offer(last, "h2"), "it is closed")
	require.True(t, r.isHTTP2("192.0.2.1"))
	require.False(t, r.isHTTP2("192.0.2.1"))
}

// New connections with HTTP/2 have a rate of their own; those over it don't have to wait.
func TestNewHTTP2OfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newHTTP2Rig(t)
		again := func(from string) bool {
			c := r.accept(from)
			defer func() { _ = c.Close() }()
			return r.offer(c, "h2", "http/1.1")
		}
		for range 20 {
			require.True(t, again("2001:db8::1"))
		}
		for range 200 {
			require.False(t, again("2001:db8::1"))
		}
		for range 20 {
			require.True(t, again("2001:db8:0:1::1"), "a refused one doesn't count for its /48")
		}
		time.Sleep(time.Second)
		require.True(t, again("2001:db8::1"))
		require.True(t, again("2001:db8::1"))
		require.False(t, again("2001:db8::1"))
		some := 0
		for i := range 200 {
			if again(fmt.Sprintf("2001:db8:0:%x::1", i+2)) {
				some++
			}
		}
		require.Less(t, some, 80, "a /48 has four times that")
		for range 100 {
			require.True(t, again("10.0.0.1"), "a proxy's aren't counted")
		}
	})
}

// A /48 has as many as other networks of many parties.
func TestHTTP2OfOneSite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newHTTP2Rig(t)
		var last net.Conn
		for i := range 512 / 8 {
			last = r.accept(fmt.Sprintf("2001:db8:0:%x::1", i))
			require.True(t, r.offer(last, "h2", "http/1.1"))
			time.Sleep(time.Second)
		}
		require.False(t, r.isHTTP2("2001:db8:0:ffff::1"))
		require.True(t, r.isHTTP2("2001:db8:1::1"))
		_ = last.Close()
		require.True(t, r.isHTTP2("2001:db8:0:ffff::1"))
		require.False(t, r.isHTTP2("2001:db8:0:fffe::1"))
	})
}

// All have a bound together.
func TestHTTP2OfAll(t *testing.T) {
	r := newHTTP2Rig(t)
	at := netip.MustParseAddr("192.0.2.1")
	for range 512 / 16 {
		for range 16 {
			require.True(t, r.isHTTP2(at.String()))
		}
		at = at.Next()
	}
	require.False(t, r.isHTTP2(at.String()))
}

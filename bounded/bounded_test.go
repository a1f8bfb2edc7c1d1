package bounded_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/internal/pipes"
)

// A rig is a server whose connections come from the address that the test says.
type rig struct {
	testing.TB
	at       *netip.Addr
	refused  map[string]int // by reason and address
	pipes    *pipes.Listener
	listener *bounded.Listener
}

func newRig(t *testing.T, o bounded.Options) *rig {
	r := &rig{TB: t, at: new(netip.Addr), pipes: pipes.Listen(), refused: make(map[string]int)}
	o.Refused = func(why bounded.Reason, from netip.Addr) { r.refused[fmt.Sprint(why, " ", from)]++ }
	o.Address = func(net.Conn) netip.Addr { return *r.at }
	r.listener = bounded.Listen(r.pipes, o)
	web := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }),
		ReadHeaderTimeout: time.Minute,
	}
	served := make(chan error, 1)
	go func() { served <- web.Serve(r.listener) }()
	t.Cleanup(func() {
		require.NoError(t, web.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return r
}

// dial makes a connection that has sent the beginning of a request.
func (r *rig) dial(from string) net.Conn {
	r.Helper()
	*r.at = netip.Addr{}
	if from != "" {
		*r.at = netip.MustParseAddr(from)
	}
	c, err := r.pipes.DialContext(r.Context(), "", "")
	require.NoError(r, err)
	r.Cleanup(func() { _ = c.Close() })
	go func() { _, _ = c.Write([]byte("GET / HTTP/1.1\r\n")) }()
	synctest.Wait()
	return c
}

// finish sends the rest of the request, and reports whether it was answered.
func (r *rig) finish(c net.Conn) bool {
	if _, err := c.Write([]byte("Host: a\r\nConnection: close\r\n\r\n")); err != nil {
		return false
	}
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return false
	}
	require.NoError(r, response.Body.Close())
	return response.StatusCode == http.StatusOK
}

// TestSlowHeaders: one address that sends headers slowly on many connections has its own
// oldest closed, and nobody else's.
func TestSlowHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, bounded.Options{Connections: 640, PerSecond: -1})
		phone := r.dial("192.0.2.1")
		var flood []net.Conn
		for i := range 1500 {
			flood = append(flood, r.dial(fmt.Sprintf("2a01:db8:1:2::%x", i)))
		}
		require.Equal(t, 1+640/32, r.listener.Open())
		require.Len(t, r.refused, 1500-640/32)
		require.Equal(t, 1, r.refused["too_many 2a01:db8:1:2::"])
		require.True(t, r.finish(phone))
		require.False(t, r.finish(flood[0]))
		require.True(t, r.finish(flood[len(flood)-1]))
		synctest.Wait()
		require.Equal(t, 640/32-1, r.listener.Open())
		time.Sleep(2 * time.Minute)
		require.Zero(t, r.listener.Open(), "places are given back")
	})
}

// TestManyAddresses: when all places are taken, the address that has most loses one.
func TestManyAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, bounded.Options{Connections: 64, PerSecond: -1})
		phones := []net.Conn{r.dial("192.0.2.1"), r.dial("192.0.2.2")}
		for i := range 300 {
			r.dial(fmt.Sprintf("203.0.113.%d", i%20))
		}
		require.Equal(t, 64, r.listener.Open())
		for _, phone := range phones {
			require.True(t, r.finish(phone))
		}
	})
}

// TestOverlaysAndProxies: all that can't be told apart have half of the places, and
// proxies may have all that nobody else has.
func TestOverlaysAndProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, bounded.Options{Connections: 64, PerSecond: -1, Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), {}}})
		phone := r.dial("192.0.2.1")
		for i := range 100 {
			r.dial(fmt.Sprintf("200:%x::1", i))
		}
		require.Equal(t, 1+32, r.listener.Open())
		for i := range 100 {
			r.dial([]string{"10.1.2.3", ""}[i%2])
		}
		require.Equal(t, 64, r.listener.Open())
		require.True(t, r.finish(phone))
	})
}

// Without a limit there is none.
func TestNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, bounded.Options{Connections: -1, PerSecond: -1})
		for range 1000 {
			r.dial("192.0.2.1")
		}
		require.Equal(t, 1000, r.listener.Open())
	})
}

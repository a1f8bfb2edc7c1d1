package bounded_test

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/internal/pipes"
)

// New connections of one address come at its rate: those within five seconds' rate are
// answered late, further ones are closed, and nobody else's wait.
func TestNewConnectionsOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond, atOnce, late = 2, 20, 10
		r := newRig(t, bounded.Options{PerSecond: perSecond, Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
		began := time.Now()
		for range atOnce {
			require.True(t, r.finish(r.dial("192.0.2.1")))
		}
		require.Zero(t, time.Since(began))
		var held []net.Conn
		for range late {
			held = append(held, r.dial("192.0.2.1"))
		}
		require.Equal(t, late, r.listener.Open())
		require.Empty(t, r.refused)
		require.False(t, r.finish(r.dial("192.0.2.1")), "it is closed")
		require.Equal(t, map[string]int{"too_soon 192.0.2.1": 1}, r.refused)
		for range 3 * atOnce {
			require.True(t, r.finish(r.dial("10.1.2.3")), "a proxy has no rate")
		}
		require.True(t, r.finish(r.dial("192.0.2.2")))
		require.Zero(t, time.Since(began))
		for i, c := range held {
			require.True(t, r.finish(c))
			require.Equal(t, time.Duration(i+1)*time.Second/perSecond, time.Since(began))
		}
		time.Sleep(time.Hour)
		began = time.Now()
		for range atOnce {
			require.True(t, r.finish(r.dial("192.0.2.1")))
		}
		require.Zero(t, time.Since(began))
	})
}

// Data that a paused connection brings is handed on after its longest pause, and its owner can
// close it meanwhile.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := pipes.Listen()
		l := bounded.Listen(all, bounded.Options{})
		accept := func() (theirs, ours net.Conn, pause func(time.Duration)) {
			accepted := make(chan net.Conn)
			go func() {
				c, err := l.Accept()
				require.NoError(t, err)
				accepted <- c
			}()
			theirs, err := all.DialContext(t.Context(), "", "")
			require.NoError(t, err)
			ours = <-accepted
			return theirs, ours, ours.(interface{ Pause(time.Duration) }).Pause
		}
		theirs, ours, pause := accept()
		began := time.Now()
		go func() { _, _ = theirs.Write([]byte("hello")) }()
		go func() {
			time.Sleep(time.Second) // while it is paused
			pause(4 * time.Second)
		}()
		pause(2 * time.Second)
		pause(time.Second)
		bytes := make([]byte, 10)
		n, err := ours.Read(bytes)
		require.NoError(t, err)
		require.Equal(t, "hello", string(bytes[:n]))
		require.Equal(t, 5*time.Second, time.Since(began))

		began = time.Now()
		go func() { _, _ = theirs.Write([]byte("hello")) }()
		n, err = ours.Read(bytes)
		require.NoError(t, err)
		require.Equal(t, 5, n)
		require.Zero(t, time.Since(began), "the pause is over")

		go func() { _, _ = theirs.Write([]byte("hello")) }()
		go func() {
			time.Sleep(time.Second)
			require.NoError(t, ours.Close())
		}()
		pause(time.Hour)
		_, err = ours.Read(bytes)
		require.ErrorIs(t, err, net.ErrClosed)
		require.Equal(t, time.Second, time.Since(began))
		require.NoError(t, ours.Close())
		require.NoError(t, theirs.Close())
		require.Zero(t, l.Open())
		require.NoError(t, l.Close())
	})
}

// A server can end the reading of a paused connection, as it does to cut off a body. The bytes
// that have come are handed on after the pause, and a deadline within the pause changes nothing.
func TestPauseIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := newUnusedRig(t, 0).dial("192.0.2.1")
		began := time.Now()
		one.usable.(interface{ Pause(time.Duration) }).Pause(10 * time.Second)
		go func() { _, _ = one.client.Write([]byte("hello")) }()
		for _, cut := range []func(time.Time) error{one.SetReadDeadline, one.SetDeadline} {
			go func() {
				time.Sleep(time.Second)
				require.NoError(t, cut(time.Unix(1, 0)))
			}()
			for range 2 {
				_, err := one.Read(make([]byte, 5))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			}
			require.NoError(t, cut(time.Now().Add(time.Second)))
		}
		require.Equal(t, 2*time.Second, time.Since(began))
		for _, want := range []string{"hel", "lo"} {
			some := make([]byte, 3)
			n, err := one.Read(some)
			require.NoError(t, err)
			require.Equal(t, want, string(some[:n]))
			require.Equal(t, 10*time.Second, time.Since(began))
		}
	})
}

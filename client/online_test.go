package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
)

// A Node that is offline asks nobody: neither relays at which it waits or that it
// polls, nor those that failed, nor destinations. When it is online again, all are
// asked at once.
func TestNodeOffline(t *testing.T) {
	skipIfShort(t)
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.relay(r1)
		w.relay(r2)
		w.setRelays(a.ServerName, r1)
		w.setRelays(b.ServerName, r2, r3)
		w.enqueue("1")
		for round := range 3 {
			time.Sleep(time.Second + time.Duration(round)*7*time.Hour) // long pauses after failures
			w.goOffline()
			w.told()
			w.enqueue(fmt.Sprint("new", round))
			w.node.Seen(b.ServerName)
			w.leave(r1, fmt.Sprint("x", round))
			time.Sleep(24 * time.Hour)
			require.Empty(t, w.told())
			require.Len(t, w.fetched(), round)
			require.False(t, w.status().Online)

			asked := map[string]int{"own": w.net.Asked(r1), "dead": w.net.Asked(r3), "destination": w.net.Asked(b.ServerName)}
			w.goOnline()
			time.Sleep(time.Millisecond)
			require.Equal(t, []string{fmt.Sprintf("new%d relayed", round)}, w.told())
			require.Len(t, w.fetched(), round+1)
			require.Greater(t, w.net.Asked(r1), asked["own"])
			require.Greater(t, w.net.Asked(r3), asked["dead"])
			require.Greater(t, w.net.Asked(b.ServerName), asked["destination"])
			require.True(t, w.status().Online)
		}
	})
}

// Requests that end when this server goes offline count as no failure of others.
func TestNodeOfflineBlamesNobody(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.net.Set(b.ServerName, relaytest.Host{Hangs: true})
		w.net.Set(r1, relaytest.Host{Hangs: true})
		w.setRelays(a.ServerName, r1)
		w.setRelays(b.ServerName, r2)
		w.enqueue("1")
		time.Sleep(time.Second)
		require.Equal(t, 1, w.net.Asked(r1))
		require.Equal(t, 1, w.net.Asked(b.ServerName))
		w.goOffline()
		time.Sleep(time.Hour)
		status := w.status()
		require.Len(t, status.Destinations, 1)
		require.False(t, status.Destinations[0].Offline)
		require.Equal(t, []client.RelayStatus{{Relay: r1, Own: true}}, status.Relays)
		w.net.AddHomeserver(b.ServerName)
		w.goOnline()
		time.Sleep(time.Millisecond)
		require.Equal(t, []string{"1 delivered"}, w.told())
		require.Zero(t, w.net.Asked(r2))
	})
}

// A network that is another one, such as the next wireless one, is a reason to ask
// anew, too.
func TestNodeOnlineAgain(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.setRelays(a.ServerName, r1)
		w.setRelays(b.ServerName, r2)
		w.enqueue("1")
		time.Sleep(24 * time.Hour)
		w.relay(r1)
		w.relay(r2)
		w.leave(r1, "x")
		w.node.Online()
		time.Sleep(time.Millisecond)
		require.Equal(t, []string{"1 relayed"}, w.told())
		require.Equal(t, []string{"x"}, w.fetched())
		before := w.net.Asked(r1)
		w.node.Online()
		time.Sleep(time.Millisecond)
		require.Equal(t, before+2, w.net.Asked(r1), "it looks, and waits anew")
	})
}

// After a time without network the pauses between attempts are short again.
func TestNodeOnlineShortPauses(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.setRelays(b.ServerName, r2)
		w.enqueue("1")
		time.Sleep(24 * time.Hour)
		for _, restart := range []func(){w.goOffline, func() {}} {
			restart()
			before, relays := w.net.Asked(b.ServerName), w.net.Asked(r2)
			w.goOnline()
			time.Sleep(time.Minute)
			require.Greater(t, w.net.Asked(b.ServerName)-before, 4)
			require.Greater(t, w.net.Asked(r2)-relays, 4)
			time.Sleep(24 * time.Hour)
		}
	})
}

// A relay that asked for time gets it, also when the network comes and goes.
func TestNodeOnlineLeavesTime(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.net.Set(r2, answers(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"","retry_after_ms":3600000}`))
		w.setRelays(b.ServerName, r2)
		w.enqueue("1")
		time.Sleep(time.Second)
		for range 5 {
			w.goOffline()
			time.Sleep(time.Minute)
			w.goOnline()
			time.Sleep(time.Minute)
		}
		require.Equal(t, 1, w.net.Asked(r2))
		w.relay(r2)
		time.Sleep(51 * time.Minute)
		require.Equal(t, []string{"1 relayed"}, w.told())
	})
}

// A handler that is at work when the network goes is told to stop, and mail that it
// didn't handle comes again.
func TestNodeOfflineEndsHandlers(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.relay(r1)
		w.leave(r1, "1", "2", "3")
		var cut []error
		w.fails(func(ctx context.Context) error {
			select {
			case <-time.After(time.Minute):
				return nil
			case <-ctx.Done():
				cut = append(cut, ctx.Err())
				return ctx.Err()
			}
		})
		w.setRelays(a.ServerName, r1)
		time.Sleep(90 * time.Second)
		require.Equal(t, []string{"1"}, w.fetched())
		w.goOffline()
		synctest.Wait()
		require.Equal(t, []error{context.Canceled}, cut)
		time.Sleep(time.Hour)
		w.goOnline()
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1", "2", "3"}, w.fetched(), "1 was written down")

		// One that doesn't care is waited for, and is the last.
		w.goOffline()
		w.leave(r1, "4", "5")
		w.fails(func(context.Context) error { time.Sleep(time.Minute); return nil })
		w.goOnline()
		time.Sleep(time.Second)
		w.goOffline()
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1", "2", "3", "4"}, w.fetched())
		w.goOnline()
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1", "2", "3", "4", "5"}, w.fetched())
	})
}

// It may begin without a network, and switch any number of times without a pause.
func TestNodeBeginsOffline(t *testing.T) {
	inNodeWorld(t, func(c *client.NodeConfig) { c.Offline = true }, func(w *nodeWorld) {
		w.offline.Store(true)
		w.setRelays(a.ServerName, r1)
		w.enqueue("1")
		time.Sleep(time.Hour)
		w.fails(func(context.Context) error { return errors.New("not yet") })
		w.goOnline()
		for range 100 {
			w.goOffline()
			w.goOnline()
		}
		w.goOffline()
		w.fails(nil)
		time.Sleep(time.Hour)
		require.Empty(t, w.told())
		w.offline.Store(false)
		w.relay(r1)
		w.leave(r1, "x")
		w.net.AddHomeserver(b.ServerName)
		w.goOnline()
		time.Sleep(time.Millisecond)
		require.Equal(t, []string{"1 delivered"}, w.told())
		require.Equal(t, []string{"x"}, w.fetched())
	})
}

package client_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
)

// inWaiting is an inbox with one relay, at which its receiver waits.
func inWaiting(t *testing.T, change func(*relay.Config), run func(b *inbox, server *relay.Server)) {
	inInbox(t, func(b *inbox) {
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
		server := b.relay(r1, change)
		stop := b.run()
		time.Sleep(time.Second)
		run(b, server)
		stop()
		require.NoError(t, server.Close())
	})
}

func asIs(*relay.Config) {}

// gets requires that mail that is left now is handled within that time.
func (b *inbox) gets(number int, within time.Duration) {
	b.Helper()
	have := len(b.got())
	b.leave("gets", number, r1)
	time.Sleep(within)
	require.Equal(b, upTo(number, number), b.got()[have:])
}

func TestWaitingIsOneRoundTrip(t *testing.T) {
	inWaiting(t, asIs, func(b *inbox, _ *relay.Server) {
		before := b.net.Asked(r1)
		for i := range 50 {
			b.gets(i, 15*time.Millisecond)
			time.Sleep(time.Duration(i) * time.Second)
		}
		require.Less(t, b.net.Asked(r1)-before, 50*4)
		before = b.net.Asked(r1)
		time.Sleep(time.Hour)
		require.InDelta(t, 72, b.net.Asked(r1)-before, 2, "each answer is held for 50 seconds")
	})
}

// Relays that hold answers for less than they are asked to, or not at all,
// aren't asked again and again.
func TestWaitingShort(t *testing.T) {
	for hold, most := range map[time.Duration]int{
		-1: 180, time.Millisecond: 180, time.Second: 180, 4 * time.Second: 180, 6 * time.Second: 601, 30 * time.Second: 121,
	} {
		inWaiting(t, func(c *relay.Config) { c.MaxWait = hold }, func(b *inbox, _ *relay.Server) {
			before := b.net.Asked(r1)
			time.Sleep(time.Hour)
			require.LessOrEqual(t, b.net.Asked(r1)-before, most, "%v", hold)
			b.gets(1, 2*client.DefaultPollInterval)
		})
	}
}

// A node that comes online asks at once, also while it waits at a relay. A
// request on a connection that has died takes its time to end all the same.
func TestWaitingOnline(t *testing.T) {
	inWaiting(t, asIs, func(b *inbox, server *relay.Server) {
		for range 3 {
			before := b.net.Asked(r1)
			b.receiver.Online()
			time.Sleep(time.Millisecond)
			require.Equal(t, before+1, b.net.Asked(r1))
			time.Sleep(time.Second)
		}
		b.net.Set(r1, relaytest.Host{Hangs: true})
		b.receiver.Online()
		time.Sleep(time.Second)
		b.net.Set(r1, relaytest.Host{Handler: server})
		b.leave("1", 1, r1)
		require.Empty(t, b.got())
		b.receiver.Online()
		time.Sleep(time.Second)
		require.Empty(t, b.got(), "the connection is dead, and it doesn't know")
		time.Sleep(client.DefaultTimeout + client.DefaultWait)
		require.Equal(t, upTo(1, 1), b.got())
	})
}

// A relay that shuts down answers at once, and is asked again later.
func TestWaitingAtRelayThatCloses(t *testing.T) {
	inWaiting(t, asIs, func(b *inbox, server *relay.Server) {
		before, began := b.net.Asked(r1), time.Now()
		require.NoError(t, server.Close())
		require.Zero(t, time.Since(began), "it needn't wait for the receiver")
		time.Sleep(time.Hour)
		require.Less(t, b.net.Asked(r1)-before, 20)
		again := b.relay(r1)
		b.gets(1, client.DefaultMostBackoff)
		b.gets(2, time.Second)
		require.NoError(t, again.Close())
	})
}

// Switching a relay off and on is as if it were away.
func TestWaitingAtRelayThatIsSwitchedOff(t *testing.T) {
	inWaiting(t, asIs, func(b *inbox, server *relay.Server) {
		before := b.net.Asked(r1)
		server.SetEnabled(false)
		time.Sleep(time.Hour)
		require.Less(t, b.net.Asked(r1)-before, 20)
		server.SetEnabled(true)
		b.gets(1, client.DefaultMostBackoff)
	})
}

// While Run waits at a relay, Sync asks it too.
func TestWaitingDoesNotHoldUpSync(t *testing.T) {
	inWaiting(t, asIs, func(b *inbox, _ *relay.Server) {
		began := time.Now()
		require.Equal(t, []client.Drained{{Relay: r1}}, b.receiver.Sync(b.Context()))
		require.Less(t, time.Since(began), time.Second)
		b.leave("1", 1, r1)
		total := b.receiver.Sync(b.Context())[0]
		time.Sleep(time.Second)
		require.NoError(t, total.Err)
		require.Equal(t, upTo(1, 1), b.got())
	})
}

// Without waiting it polls.
func TestWaitingNotWanted(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.restart(func(_ *client.CallerConfig, c *client.ReceiverConfig) { c.Wait = -1 })
		s := b.scripted(r1, &scripted{})
		s.odd = func(_ http.ResponseWriter, a *ask) bool {
			require.Zero(t, a.Timeout)
			return false
		}
		stop := b.run()
		time.Sleep(time.Hour)
		require.InDelta(t, 60, b.net.Asked(r1), 20)
		stop()
	})
}

// An answer that is too long when it comes at last is asked for in pieces.
func TestWaitingTooLong(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.restart(func(c *client.CallerConfig, _ *client.ReceiverConfig) { c.MaxAnswerBytes = 2 << 10 })
		s := b.scripted(r1, &scripted{size: 1000})
		s.odd = func(_ http.ResponseWriter, a *ask) bool {
			if a.Timeout > 0 && s.last == 0 {
				time.Sleep(20 * time.Second)
				s.last = 5
			}
			return false
		}
		stop := b.run()
		time.Sleep(25 * time.Second)
		require.Equal(t, upTo(1, 5), b.got())
		stop()
	})
}

// With neither waiting nor polling, only Online and Sync ask.
func TestReceiverNotPolling(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.restart(func(_ *client.CallerConfig, c *client.ReceiverConfig) { c.Wait, c.PollInterval = -1, -1 })
		b.scripted(r1, &scripted{})
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
		stop := b.run()
		time.Sleep(365 * 24 * time.Hour)
		require.Equal(t, 1, b.net.Asked(r1))
		b.receiver.Online()
		time.Sleep(time.Second)
		require.Equal(t, 2, b.net.Asked(r1))
		stop()
	})
}

package client_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// A reaction is a relay's answer to a request in TestFollowBacksOffAnew.
type reaction struct {
	fails, well   bool
	holds         time.Duration
	began, ended  time.Time
	number, waits int // of the request, and of those that wait
}

// After any sign that a relay is well, the back-off begins anew.
func TestFollowBacksOffAnew(t *testing.T) {
	const failures = 9
	for name, react := range map[string]func(s *scripted, r *reaction, waiting bool){
		"it is polled": func(_ *scripted, r *reaction, _ bool) { // it doesn't hold the second answer
			r.well = r.number == failures+2
			r.fails = r.number <= failures || r.number > failures+2
		},
		"it gave its answer": func(s *scripted, r *reaction, waiting bool) {
			if r.well = waiting && r.waits == failures+1; r.well {
				s.last++
			}
			r.fails = waiting && !r.well
		},
		"it held an answer for a while": func(_ *scripted, r *reaction, waiting bool) {
			if r.well = waiting && r.waits == failures+1; r.well {
				r.holds = 6 * time.Second
			}
			r.fails = waiting
		},
	} {
		t.Run(name, func(t *testing.T) {
			inInbox(t, func(b *inbox) {
				require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
				s := &scripted{}
				var all []reaction
				waits := 0
				s.odd = func(w http.ResponseWriter, a *ask) bool {
					if waiting(a) {
						waits++
					}
					r := reaction{began: time.Now(), number: a.number, waits: waits}
					react(s, &r, waiting(a))
					time.Sleep(r.holds)
					if r.fails {
						w.WriteHeader(500)
					}
					r.ended = time.Now()
					all = append(all, r)
					return r.fails
				}
				b.scripted(r1, s)
				stop := b.run()
				time.Sleep(time.Hour)
				stop()
				requireAnew(t, all)
			})
		})
	}
}

// requireAnew requires that there was a long pause before the relay was well, and
// a short one after the first failure since.
func requireAnew(t *testing.T, all []reaction) {
	t.Helper()
	well, longest := false, time.Duration(0)
	for i, r := range all[:len(all)-1] {
		pause := all[i+1].began.Sub(r.ended)
		well = well || r.well
		if !well {
			longest = max(longest, pause)
		} else if r.fails {
			require.Greater(t, longest, 100*time.Second)
			require.LessOrEqual(t, pause, time.Second+20*time.Millisecond)
			return
		}
	}
	require.Fail(t, "it was never well, or didn't fail after that")
}

// A handler's error that speaks of another server isn't about the relay.
func TestFollowHandlerLimited(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.relay(r1)
		b.leave("1", 1, r1)
		fails := 1
		b.fail = func(client.Received) error {
			if fails--; fails >= 0 {
				return fmt.Errorf("looking up a room: %w", &wire.Error{Status: 429, RetryAfter: 24 * time.Hour})
			}
			return nil
		}
		stop := b.run()
		time.Sleep(3 * time.Second)
		require.Equal(t, []string{"1"}, b.got())
		stop()
	})
}

// A relay that is added is asked at once, and one that is removed no more, at
// once, at any poll interval.
func TestRunRelaysChange(t *testing.T) {
	inInbox(t, func(b *inbox) {
		b.restart(func(_ *client.CallerConfig, c *client.ReceiverConfig) { c.PollInterval = 24 * time.Hour })
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r1, r2, r3))
		b.relay(r1)
		var asking, gone atomic.Int64
		b.net.Set(r2, relaytest.Host{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			asking.Add(1)
			<-r.Context().Done()
			gone.Add(1)
		})})
		stop := b.run()
		b.leave("1", 1, r1)
		time.Sleep(time.Hour)
		require.Empty(t, b.got())
		for range 3 {
			require.NoError(t, b.peers.AddRelays(b.Context(), nodeB, r1, r2))
			require.NoError(t, b.peers.AddRelays(b.Context(), a.ServerName, r3))
			time.Sleep(time.Second)
			require.Equal(t, []string{"1"}, b.got())
			require.Equal(t, gone.Load()+1, asking.Load())
			require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r1, r2))
			time.Sleep(time.Millisecond)
			require.Equal(t, asking.Load(), gone.Load(), "requests under way are given up")
			before := b.net.Asked(r1)
			time.Sleep(48 * time.Hour)
			require.Equal(t, before, b.net.Asked(r1))
		}
		require.Zero(t, b.net.Asked(r3), "it isn't ours")
		stop()
	})
}

// However relays come and go, in the end those that are there are followed, each
// once. RELAY_FOLLOW_SEED repeats it.
func TestRunRelaysChangeAtRandom(t *testing.T) {
	dice := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_FOLLOW_SEED"), 0))
	inInbox(t, func(b *inbox) {
		all := []spec.ServerName{r1, r2, r3}
		for _, relay := range all {
			b.relay(relay)
		}
		stop := b.run()
		for round := range seeds.Rounds(50, 10) {
			for range dice.IntN(10) {
				change := []func() error{
					func() error { return b.peers.AddRelays(b.Context(), nodeB, all[dice.IntN(3)]) },
					func() error { return b.peers.RemoveRelays(b.Context(), nodeB, all[dice.IntN(3)]) },
				}
				require.NoError(t, change[dice.IntN(2)]())
				time.Sleep(time.Duration(dice.IntN(30)) * time.Millisecond)
			}
			require.NoError(t, b.peers.AddRelays(b.Context(), nodeB, r1))
			time.Sleep(time.Second)
			known, before := b.peers.Relays(nodeB), make(map[spec.ServerName]int)
			for _, relay := range all {
				before[relay] = b.net.Asked(relay)
			}
			b.leave(fmt.Sprint(round), round, r1)
			time.Sleep(time.Hour)
			require.Equal(t, upTo(0, round), b.got())
			for _, relay := range all {
				times := b.net.Asked(relay) - before[relay]
				if slices.Contains(known, relay) {
					require.InDelta(t, 73, times, 4, "each answer is held for 50 s, by one")
				} else {
					require.Zero(t, times)
				}
			}
		}
		stop()
	})
}

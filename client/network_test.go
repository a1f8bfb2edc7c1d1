package client_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// How many networks TestNetwork runs, and the one seed to run.
const (
	networkRuns = "RELAY_NETWORK_RUNS"
	networkSeed = "RELAY_NETWORK_SEED"
)

// TestNetwork runs whole networks, each with a seed of its own: nodes that send
// and receive, real relays between them, some of which pass on their mail,
// and hours in which hosts go away and come back, restart, fail, and lose
// requests and answers. Then everything is well again, and in the end each
// transaction must have been handled once, and nothing be left anywhere. Package
// client's parts and relay.Server are the real ones, on store/memory; the
// network and the time are simulated.
//
// RELAY_NETWORK_RUNS is how many networks there are (default: 100).
// RELAY_NETWORK_SEED=n runs that seed alone, RELAY_NETWORK_RUNS times (default:
// once).
//
// A seed decides who is there, which mail is sent, who goes away and restarts, all of
// it at the same times, and what each host's dice show. It doesn't decide the
// jitter of back-offs and of polling, which the client takes from the global
// source, nor which of two goroutines is first, so the dice may be thrown for
// other requests. A rare failure takes a few runs of its seed to come again.
func TestNetwork(t *testing.T) {
	seeds.Each(t, networkSeed, networkRuns, seeds.Rounds(100, 8), func(t *testing.T, seed uint64) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { runNetwork(t, seed) })
	})
}

func runNetwork(t *testing.T, seed uint64) {
	n := newNetwork(t, seed)
	defer n.explain()
	n.trouble()
	n.heal()
	n.lastWords()
	n.settle()
	n.check()
}

// trouble lets everybody live while the network is in trouble.
func (n *network) trouble() {
	n.troubled.Store(true)
	var all sync.WaitGroup
	for _, d := range n.dropboxes {
		all.Go(func() { n.weather(d.host, d.reopen) })
	}
	for _, m := range n.members {
		all.Go(func() { n.weather(m.host, m.announce) })
		all.Go(m.live)
	}
	all.Wait()
}

// heal ends the trouble: everybody is there and knows all relays.
func (n *network) heal() {
	n.log("the trouble is over")
	n.troubled.Store(false)
	for _, d := range n.dropboxes {
		d.set(here)
	}
	for _, m := range n.members {
		m.set(here)
		m.reopen(m.outbox.Load() == nil, m.receiver == nil)
		require.NoError(n, m.peers.AddRelays(n.Context(), m.name, m.relays...))
	}
}

// lastWords has everybody write once more, some of it just when the outbox has
// found that nothing is left.
func (n *network) lastWords() {
	for range 3 {
		for _, m := range n.members {
			m.write(n.members[m.script.IntN(len(n.members))])
			time.Sleep(m.script.upTo(3 * time.Second))
		}
	}
}

// settle waits until all transactions have left the outboxes, and then, when
// nothing is on its way to a relay, the relays; and ends everything.
func (n *network) settle() {
	n.await("the outboxes", func() (left int64) {
		for _, m := range n.members {
			left += n.queued(m.mail, store.PrivateHalf)
		}
		return left
	})
	for _, m := range n.members {
		m.closeOutbox()
	}
	time.Sleep(late)
	n.await("the relays", func() (left int64) {
		for _, d := range n.dropboxes {
			left += n.queued(d.ledger, "")
		}
		return left
	})
	for _, m := range n.members {
		m.closeReceiver()
		require.NoError(n, m.mail.Close())
	}
	for _, d := range n.dropboxes {
		d.close()
		require.NoError(n, d.ledger.Close())
	}
}

// await waits until nothing is left.
func (n *network) await(where string, left func() int64) {
	const atMost = 3 * 24 * time.Hour
	for end := time.Now().Add(atMost); left() > 0; time.Sleep(10 * time.Minute) {
		if time.Now().After(end) {
			n.Errorf("%d transactions are still in %s", left(), where)
			return
		}
	}
}

// weather has a host go away and come back.
func (n *network) weather(h *host, back func(*dice)) {
	d := n.dice("weather of " + string(h.name))
	for n.pause(d, n.length/4) {
		h.set(state(d.IntN(int(states))))
		n.pause(d, n.length/2)
		h.set(here)
		back(d)
	}
}

// pause waits for up to most, and reports false when the trouble is over.
func (n *network) pause(d *dice, most time.Duration) bool {
	left := time.Until(n.began.Add(n.length))
	time.Sleep(max(0, min(d.upTo(most), left)))
	return time.Since(n.began) < n.length
}

// explain says everything needed to understand a failure.
func (n *network) explain() {
	if !n.Failed() {
		return
	}
	n.Logf("run this again with %s=%d; the last events:\n%s", networkSeed, n.seed, n.diary())
}

// background is the context of work that goes on after the test's own has ended.
var background = context.Background()

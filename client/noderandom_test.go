package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
)

// How many worlds TestNodeAtRandom runs, and the one seed to run.
const (
	nodeRuns = "RELAY_NODE_RUNS"
	nodeSeed = "RELAY_NODE_SEED"
)

// TestNodeAtRandom has a Node go offline and online, be closed, killed and opened
// again, get other relays and be seen, while b and relays come and go and handlers
// are slow or fail. It must ask nobody while it is offline. In the end b has all
// that was enqueued, and all that was left for the Node was handled, that of each
// relay in order, and once, unless the Node was killed.
//
// RELAY_NODE_RUNS is how many there are (default: 50). RELAY_NODE_SEED=n runs that
// seed alone. A seed decides all but the jitter of back-offs, and which of two
// goroutines is first.
func TestNodeAtRandom(t *testing.T) {
	seeds.Each(t, nodeSeed, nodeRuns, seeds.Rounds(50, 4), func(t *testing.T, seed uint64) {
		r := &nodeRandom{script: rand.New(rand.NewPCG(seed, 0)), mayDie: seed%2 == 0}
		inNodeWorld(t, nil, r.play)
	})
}

type nodeRandom struct {
	*nodeWorld
	script *rand.Rand
	mayDie bool
	dice   atomic.Uint64 // of the handler

	disk     notedStore // it stays when the Node is killed
	kills    int
	down     map[spec.ServerName]bool
	enqueued []string
	left     []string // "relay number"
}

func (r *nodeRandom) play(w *nodeWorld) {
	r.nodeWorld, r.disk, r.down = w, w.mail, make(map[spec.ServerName]bool)
	defer func() { w.mail = r.disk }() // to be closed
	w.fails(r.handling)
	for _, name := range []spec.ServerName{r1, r2, r3} {
		w.relay(name)
	}
	home := w.net.AddHomeserver(b.ServerName)
	w.setRelays(a.ServerName, r1, r2)
	for range 80 {
		r.step()
		time.Sleep(time.Duration(r.script.IntN(100)) * time.Second)
	}
	r.heal()
	r.check(home)
}

// handling has the handler be quick, slow or fail.
func (r *nodeRandom) handling(ctx context.Context) error {
	switch r.dice.Add(1) % 7 {
	case 0:
		return errors.New("the room is locked")
	case 1, 2:
		select {
		case <-time.After(20 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (r *nodeRandom) step() {
	switch r.script.IntN(12) {
	case 0, 1:
		r.goOffline()
	case 2, 3:
		r.goOnline()
	case 4:
		r.restart()
	case 5:
		r.setRelays(a.ServerName, r.some(1)...)
		r.setRelays(b.ServerName, r.some(0)...)
	case 6:
		r.node.Seen(b.ServerName)
	case 7, 8:
		server := []spec.ServerName{r1, r2, r3, b.ServerName, b.ServerName}[r.script.IntN(5)]
		r.down[server] = !r.down[server]
		r.net.SetOffline(server, r.down[server])
	case 9, 10:
		for range 1 + r.script.IntN(4) {
			id := fmt.Sprint(len(r.enqueued))
			r.enqueue(id)
			r.enqueued = append(r.enqueued, id)
		}
	default:
		relay := []spec.ServerName{r1, r2, r3}[r.script.IntN(3)]
		if r.down[relay] || r.down[b.ServerName] {
			return
		}
		for range 1 + r.script.IntN(4) {
			id := fmt.Sprintf("%s-%04d", relay, len(r.left))
			r.leave(relay, id)
			r.left = append(r.left, id)
		}
	}
}

// some are at least that many of the relays.
func (r *nodeRandom) some(least int) []spec.ServerName {
	all := []spec.ServerName{r1, r2, r3}
	r.script.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:least+r.script.IntN(len(all)-least+1)]
}

// restart closes the Node, or has it killed, and opens it again.
func (r *nodeRandom) restart() {
	if m, ok := r.mail.(*faulty); ok && r.mayDie && r.script.IntN(2) == 0 {
		m.percent.Store(100) // a process that was killed reads and writes nothing
		r.kills++
		time.Sleep(time.Duration(r.script.IntN(2)) * time.Second) // its requests go on meanwhile
	}
	r.close()
	r.offline.Store(r.script.IntN(2) == 0)
	r.mail = &faulty{notedStore: r.disk}
	r.change = func(c *client.NodeConfig) { c.Offline = r.offline.Load() }
	time.Sleep(time.Duration(r.script.IntN(100)) * time.Second)
	r.open()
	r.run()
}

// heal has all be well for long enough.
func (r *nodeRandom) heal() {
	for server := range r.down {
		r.net.SetOffline(server, false)
	}
	r.fails(nil)
	r.setRelays(a.ServerName, r1, r2, r3)
	r.goOnline()
	time.Sleep(2 * time.Hour)
}

func (r *nodeRandom) check(home *relaytest.Homeserver) {
	var delivered []string
	for _, sent := range home.Sent() {
		delivered = append(delivered, string(sent.TransactionID))
	}
	for _, id := range r.enqueued {
		require.Contains(r, delivered, id)
	}
	require.Empty(r, r.status().Destinations)
	got := r.fetched()
	for _, relay := range []string{"r1-", "r2-", "r3-"} {
		var first []string
		for _, id := range got {
			if strings.HasPrefix(id, relay) && !slices.Contains(first, id) {
				first = append(first, id)
			}
		}
		require.True(r, slices.IsSorted(first), "%v", first)
	}
	slices.Sort(got)
	if r.kills > 0 {
		got = slices.Compact(got)
	}
	slices.Sort(r.left)
	require.Equal(r, r.left, got)
	require.Empty(r, r.direct)
}

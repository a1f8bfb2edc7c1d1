//go:build unix

package jetstream

import (
	"cmp"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
)

// A fault is something that happens to nodes.
type fault struct {
	name string
	do   func(*testing.T, cluster, *Store, *rand.Rand)
}

// The faults of nodes while mail goes in and out.
var faults = []fault{
	{"leader killed", func(t *testing.T, c cluster, s *Store, dice *rand.Rand) {
		leader, _ := c.leader(t, s)
		restart(t, leader, dice)
	}},
	{"follower killed", func(t *testing.T, c cluster, s *Store, dice *rand.Rand) {
		_, followers := c.leader(t, s)
		restart(t, followers[dice.IntN(len(followers))], dice)
	}},
	{"node stopped", func(t *testing.T, c cluster, _ *Store, dice *rand.Rand) {
		n := c[dice.IntN(len(c))]
		n.signal(t, syscall.SIGSTOP)
		time.Sleep(while(dice))
		n.signal(t, syscall.SIGCONT)
	}},
	{"leader cut off from the nodes", func(t *testing.T, c cluster, s *Store, dice *rand.Rand) {
		leader, _ := c.leader(t, s) // and goes on leading those clients that it has
		cutOff(leader.peers, dice)
	}},
	{"node cut off from all", func(_ *testing.T, c cluster, _ *Store, dice *rand.Rand) {
		n := c[dice.IntN(len(c))]
		cutOff(append([]*gate{n.client}, n.peers...), dice)
	}},
	{"all terminated", func(t *testing.T, c cluster, _ *Store, dice *rand.Rand) {
		for _, i := range dice.Perm(len(c)) {
			c[i].terminate(t)
		}
		c.startAll(t, dice)
	}},
	{"all killed", func(t *testing.T, c cluster, _ *Store, dice *rand.Rand) {
		for _, n := range c {
			n.kill(t)
		}
		c.startAll(t, dice)
	}},
}

func restart(t *testing.T, n *node, dice *rand.Rand) {
	t.Helper()
	n.kill(t)
	time.Sleep(while(dice))
	n.start(t)
}

func cutOff(from []*gate, dice *rand.Rand) {
	for _, g := range from {
		g.shut()
	}
	time.Sleep(while(dice))
	for _, g := range from {
		g.reopen()
	}
}

func (c cluster) startAll(t *testing.T, dice *rand.Rand) {
	t.Helper()
	for _, i := range dice.Perm(len(c)) {
		time.Sleep(time.Duration(dice.IntN(200)) * time.Millisecond)
		c[i].start(t)
	}
}

// while is how long a node is gone: mostly for less than the four seconds after
// which the others elect a leader, sometimes for longer than the ten that a
// leader without them goes on.
func while(dice *rand.Rand) time.Duration {
	longest := []int{200, 1000, 3000, 12000}[dice.IntN(4)]
	return time.Duration(dice.IntN(longest)) * time.Millisecond
}

// TestCrashes has three nodes fail in turn under the load of two stores, for
// RELAY_JETSTREAM_ROUNDS or as many as RELAY_JETSTREAM_TIME has room for.
// RELAY_CRASH_SEED repeats the same choices.
func TestCrashes(t *testing.T) { crash(t, 3, faults) }

// TestCrashesOfOne ends the only node.
func TestCrashesOfOne(t *testing.T) { crash(t, 1, faults[len(faults)-2:]) }

func crash(t *testing.T, size int, faults []fault) {
	t.Parallel()
	rounds := seeds.Count(t, "RELAY_JETSTREAM_ROUNDS", 7)
	most, err := time.ParseDuration(cmp.Or(os.Getenv("RELAY_JETSTREAM_TIME"), "8s"))
	require.NoError(t, err)
	seed := seeds.Of(t, "RELAY_CRASH_SEED")
	if testing.Short() {
		rounds = 1
	}
	dice := rand.New(rand.NewPCG(seed, 0))
	nodes := startCluster(t, size)
	l := newCrowd(t, nodes)
	l.progress()
	round, end := 0, time.Now().Add(most)
	var order []int
	for ; round < rounds && time.Now().Before(end) && !t.Failed(); round++ {
		if len(order) == 0 {
			order = dice.Perm(len(faults))
		}
		f := faults[order[0]]
		order = order[1:]
		start := time.Now()
		time.Sleep(time.Duration(dice.IntN(500)) * time.Millisecond)
		f.do(t, nodes, l.stores[0], dice)
		l.progress()
		t.Logf("round %d: %s; %d Puts, %d entries acknowledged (%s)",
			round, f.name, l.puts.Load(), l.acks.Load(), time.Since(start).Round(time.Millisecond))
	}
	l.finish()
	t.Logf("%d rounds", round)
}

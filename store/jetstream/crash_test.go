//go:build unix

package jetstream

import (
	"cmp"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A fault is something that happens to nodes.
type fault struct {
	name string
	do   func(*testing.T, cluster, *Store, *rand.Rand)
}

// What is done to the nodes while mail goes in and out.
var faults = []fault{
	{"leader killed", func(t *testing.T, c cluster, s *Store, dice *rand.Rand) {
		leader, _ := c.leader(t, s)
		restart(t, leader, dice)
	}},
	{"follower killed", func(t *testing.T, c cluster, s *Store, dice *rand.Rand) {
		_, followers := c.leader(t, s)
		restart(t, followers[dice.IntN(len(followers))], dice)
	}},
	{"node cut off", func(t *testing.T, c cluster, _ *Store, dice *rand.Rand) {
		n := c[dice.IntN(len(c))]
		n.signal(t, syscall.SIGSTOP)
		time.Sleep(time.Duration(500+dice.IntN(8000)) * time.Millisecond)
		n.signal(t, syscall.SIGCONT)
	}},
	{"all killed", func(t *testing.T, c cluster, _ *Store, dice *rand.Rand) {
		for _, n := range c {
			n.kill(t)
		}
		for _, n := range c {
			time.Sleep(time.Duration(dice.IntN(500)) * time.Millisecond)
			n.start(t)
		}
	}},
}

func restart(t *testing.T, n *node, dice *rand.Rand) {
	t.Helper()
	n.kill(t)
	time.Sleep(time.Duration(dice.IntN(6000)) * time.Millisecond)
	n.start(t)
}

// TestCrashes has three nodes fail in turn under the load of two stores. Rounds
// and seed are those of RELAY_JETSTREAM_ROUNDS and RELAY_CRASH_SEED.
func TestCrashes(t *testing.T) { crash(t, 3, faults) }

// TestCrashesOfOne kills the only node.
func TestCrashesOfOne(t *testing.T) { crash(t, 1, faults[len(faults)-1:]) }

func crash(t *testing.T, size int, faults []fault) {
	rounds, err := strconv.Atoi(cmp.Or(os.Getenv("RELAY_JETSTREAM_ROUNDS"), "4"))
	require.NoError(t, err)
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("RELAY_CRASH_SEED"), strconv.FormatUint(rand.Uint64(), 10)), 10, 64)
	require.NoError(t, err)
	t.Logf("RELAY_CRASH_SEED=%d", seed)
	if testing.Short() {
		rounds = 1
	}
	dice := rand.New(rand.NewPCG(seed, 0))
	nodes := startCluster(t, size)
	l := newCrowd(t, nodes)
	order := dice.Perm(len(faults))
	for round := range rounds {
		f := faults[order[round%len(order)]]
		before := l.puts.Load()
		time.Sleep(time.Duration(dice.IntN(1000)) * time.Millisecond)
		f.do(t, nodes, l.stores[0], dice)
		require.Eventually(t, func() bool { return l.puts.Load() > before+100 }, 60*time.Second, 10*time.Millisecond)
		t.Logf("round %d: %s; %d Puts, %d entries acknowledged", round, f.name, l.puts.Load(), l.acks.Load())
	}
	l.finish()
}

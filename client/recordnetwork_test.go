package client_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
)

// How many networks TestRecordNetwork runs, and the one seed to run.
const (
	recordRuns = "RELAY_RECORDS_RUNS"
	recordSeed = "RELAY_RECORDS_SEED"
)

// TestRecordNetwork is the part of TestNetwork that has relay records in it: Nodes for which
// nobody ever enters a relay by hand, and which don't reach each other directly, announce one
// set of relays after the other, go away, restart, write, and know each other by links that
// may be old. Half of the relays lie: they lose, withhold or forge mail, strip proofs, serve
// old records or none, or invent numbers of newer ones. Each set has one that is honest. In
// the end everything has arrived once, and nobody has gone back to an older record.
//
// RELAY_RECORDS_RUNS is how many networks there are. RELAY_RECORDS_SEED=n runs that seed
// alone.
func TestRecordNetwork(t *testing.T) {
	seeds.Each(t, recordSeed, recordRuns, seeds.Rounds(6, 2), func(t *testing.T, seed uint64) {
		inRecordWorld(t, func(w *recordWorld) { newRecordNetwork(w, seed).play() })
	})
}

type recordNetwork struct {
	*recordWorld
	dice          *rand.Rand
	honest, liars []spec.ServerName
	sent          map[*recordNode][]string // to that node
	seqs          map[*recordNode]uint64   // of its newest record
	last          int
}

func newRecordNetwork(w *recordWorld, seed uint64) *recordNetwork {
	n := &recordNetwork{
		recordWorld: w, dice: rand.New(rand.NewPCG(seed, 0)), sent: make(map[*recordNode][]string), seqs: make(map[*recordNode]uint64),
	}
	w.change = func(c *client.NodeConfig) {
		c.Receiver.RequireProof = true
		c.Outbox.Backoff = client.Backoff{First: 10 * time.Minute, Most: time.Hour} // for the direct way, which is never there
	}
	for i := range 6 {
		name := spec.ServerName(fmt.Sprintf("relay%d.example", i))
		w.relays(name)
		if i%2 == 0 {
			n.honest = append(n.honest, name)
			continue
		}
		n.liars = append(n.liars, name)
		lying := newLiar(w.net.Host(name).Handler, n.dice)
		w.Logf("%s %s", name, lying.lie)
		w.net.Set(name, relaytest.Host{Handler: lying})
	}
	for i := range 3 {
		w.node(memberNodes[i])
	}
	return n
}

func (n *recordNetwork) play() {
	for _, node := range n.nodes {
		n.move(node)
	}
	for _, node := range n.nodes {
		for _, other := range n.nodes {
			if other != node {
				node.add(other.Link())
			}
		}
	}
	for range 25 {
		n.step()
	}
	for _, name := range slices.Concat(n.honest, n.liars) {
		n.net.SetOffline(name, false)
	}
	for _, node := range n.nodes {
		node.away = false
	}
	for range 40 { // until the daily questions have been asked
		n.pass(time.Hour)
	}
	for _, node := range n.nodes {
		node.requireGot(sorted(n.sent[node])...)
	}
}

func sorted(ids []string) []string { slices.Sort(ids); return ids }

// step has something happen, and some time pass.
func (n *recordNetwork) step() {
	node := n.nodes[n.dice.IntN(len(n.nodes))]
	other := n.nodes[n.dice.IntN(len(n.nodes))]
	switch n.dice.IntN(10) {
	case 0:
		node.away = true
		node.Offline()
	case 1:
		node.away = false
		node.Online()
	case 2:
		node.close()
		node.open()
		if node.away {
			node.Offline()
		}
	case 3:
		if !node.away {
			n.move(node)
		}
	case 4:
		all := slices.Concat(n.honest, n.liars)
		n.net.SetOffline(all[n.dice.IntN(len(all))], n.dice.IntN(3) == 0)
	default:
		if node != other {
			n.last++
			id := fmt.Sprintf("%03d", n.last)
			n.sent[other] = append(n.sent[other], id)
			node.write(other, id)
		}
	}
	n.pass([]time.Duration{time.Second, 10 * time.Minute, 5 * time.Hour}[n.dice.IntN(3)])
	n.lookAtRecords()
}

// move has a node announce others of the relays, of which at least one is honest. It fails if
// one can't be reached.
func (n *recordNetwork) move(node *recordNode) {
	set := []spec.ServerName{n.honest[n.dice.IntN(len(n.honest))]}
	for _, liar := range n.liars {
		if n.dice.IntN(2) == 0 {
			set = append(set, liar)
		}
	}
	if err := node.Announce(n.Context(), set...); err != nil {
		require.NotEmpty(n, node.Link(), "%v", err)
	}
}

// lookAtRecords: no node's own record goes back.
func (n *recordNetwork) lookAtRecords() {
	for _, node := range n.nodes {
		record := linked(n.recordWorld, node.Link())
		require.GreaterOrEqual(n, record.Seq, n.seqs[node])
		n.seqs[node] = record.Seq
	}
}

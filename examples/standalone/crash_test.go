package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/testnet"
)

const (
	crashSenders      = 16
	crashDestinations = 6
	crashLargest      = 100_000 // bytes of a PDU
	crashMostPDUs     = 8
)

// TestKill kills the program with SIGKILL while nodes send to it and fetch
// from it, again and again on the same file, and checks what it then hands
// out: everything that was answered with 200, once, unchanged, in order, and
// with IDs that are never used again. RELAY_CRASH_ROUNDS is how often (default
// 3), RELAY_CRASH_SEED makes the same choices again, though not the same race.
func TestKill(t *testing.T) {
	rounds := int(fromEnvironment(t, "RELAY_CRASH_ROUNDS", 3))
	seed := fromEnvironment(t, "RELAY_CRASH_SEED", rand.Int64())
	t.Logf("RELAY_CRASH_SEED=%d RELAY_CRASH_ROUNDS=%d", seed, rounds)
	c := newCrash(t, uint64(seed))
	for range rounds {
		c.maybeKillAtStart()
		c.restart()
		for _, to := range c.to {
			switch c.random.IntN(4) {
			case 0: // left for later rounds
			case 1:
				c.fetch(to, 1+c.random.IntN(5))
			default:
				c.fetch(to, math.MaxInt)
			}
		}
		c.killUnderLoad()
	}
	c.restart()
	for _, to := range c.to {
		c.fetch(to, math.MaxInt)
	}
	c.relay.stop()
	sent, answered, more := c.ledger.count()
	t.Logf("%d sent, %d answered, %d arrived without an answer", sent, answered, more)
	require.NotZero(t, answered)
}

func fromEnvironment(t *testing.T, name string, otherwise int64) int64 {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(s, 10, 64)
	require.NoError(t, err, name)
	return n
}

// A crash is a test under way.
type crash struct {
	t       *testing.T
	random  *rand.Rand
	db      string
	options []string // besides
	ledger  *ledger
	senders []*sender
	to      []*testnet.Node

	relay   *program
	network *testnet.Network
	killed  *atomic.Bool // is set before the program is killed
}

func newCrash(t *testing.T, seed uint64) *crash {
	c := &crash{t: t, random: rand.New(rand.NewPCG(seed, 0)), db: database(t), ledger: newLedger()}
	for i := range crashDestinations {
		c.to = append(c.to, testnet.NewNode(fmt.Sprintf("to %d", i)))
	}
	for i := range crashSenders {
		c.senders = append(c.senders, &sender{
			Node: testnet.NewNode(fmt.Sprintf("from %d", i)), random: rand.New(rand.NewPCG(seed, uint64(i)+1)),
		})
	}
	return c
}

func (c *crash) restart() {
	c.relay = start(c.t, append([]string{"-db", c.db}, c.options...)...)
	c.network, c.killed = c.relay.network(), new(atomic.Bool)
}

// maybeKillAtStart kills the program now and then while it opens the file.
func (c *crash) maybeKillAtStart() {
	if c.random.IntN(3) > 0 {
		return
	}
	p := launch(c.t, "", "-listen", "127.0.0.1:0", "-name", string(relayName), "-db", c.db)
	time.Sleep(time.Duration(c.random.IntN(80)) * time.Millisecond)
	p.kill()
}

// killUnderLoad has all nodes send, and some fetch, and kills the program.
func (c *crash) killUnderLoad() {
	var nodes sync.WaitGroup
	for _, s := range c.senders {
		nodes.Go(func() { c.send(s) })
	}
	for i := range c.random.IntN(2 * len(c.to)) { // some twice at once, as deployed nodes do
		nodes.Go(func() {
			for !c.killed.Load() {
				c.fetch(c.to[i/2], math.MaxInt)
			}
		})
	}
	time.Sleep(time.Duration(20+c.random.IntN(600)) * time.Millisecond)
	c.killed.Store(true)
	c.relay.kill()
	nodes.Wait()
	c.network.CloseIdleConnections()
}

// send sends one transaction after the other until the program is killed.
func (c *crash) send(s *sender) {
	for !c.killed.Load() {
		l := c.ledger.begin(s.next(c.to))
		err := put(c.t, c.network, s.Node, l.Transaction)
		switch {
		case err == nil:
			c.ledger.answer(l)
			s.answered = append(s.answered, l)
		case c.killed.Load():
			s.unanswered = append(s.unanswered, l)
		default:
			c.t.Errorf("%s: %v", l.TransactionID, err)
			return
		}
	}
}

// fetch is the loop of deployed nodes: at most so many entries, or all.
func (c *crash) fetch(to *testnet.Node, most int) {
	var last int64
	for range most {
		now := c.ledger.acknowledge(to.ServerName, last)
		answer, err := get(c.t, c.network, to, last)
		if err != nil && c.killed.Load() {
			return
		}
		if err == nil && !answer.EntriesQueued {
			err = c.ledger.empty(to.ServerName, now)
		} else if err == nil {
			err = c.ledger.receive(to.ServerName, last, answer)
		}
		if err != nil {
			c.t.Errorf("fetching for %s: %v", to.ServerName, err)
		}
		if err != nil || !answer.EntriesQueued {
			return
		}
		last = answer.EntryID
	}
}

// A sender is a node that sends. It remembers what it sent, for repetitions.
type sender struct {
	*testnet.Node
	random               *rand.Rand
	count                int
	answered, unanswered []*letter
}

// next chooses what to send: something new, or again what was not answered, or
// what was, or more under an ID that was used.
func (s *sender) next(to []*testnet.Node) gomatrixserverlib.Transaction {
	choice := s.random.IntN(100)
	switch {
	case choice < 40 && len(s.unanswered) > 0:
		i := s.random.IntN(len(s.unanswered))
		l := s.unanswered[i]
		s.unanswered = slices.Delete(s.unanswered, i, i+1)
		return s.retry(l)
	case choice < 50 && len(s.answered) > 0:
		return s.retry(s.answered[s.random.IntN(len(s.answered))])
	case choice < 60 && len(s.answered) > 0:
		more := s.retry(s.answered[s.random.IntN(len(s.answered))])
		if len(more.PDUs) < crashMostPDUs {
			more.PDUs = append(slices.Clip(more.PDUs), s.pdu())
		}
		return more
	}
	s.count++
	destination := to[s.random.IntN(len(to))].ServerName
	t := s.Transaction(destination, fmt.Sprintf("t%d", s.count), 0, 0)
	for range 1 + s.random.IntN(4) {
		t.PDUs = append(t.PDUs, s.pdu())
	}
	return t
}

// retry is what deployed nodes send again: the same events, at another time.
func (s *sender) retry(l *letter) gomatrixserverlib.Transaction {
	t := l.Transaction
	t.OriginServerTS += 1000
	return t
}

// pdu is mostly small.
func (s *sender) pdu() []byte {
	s.count++
	size := 300 + s.random.IntN(2000)
	if s.random.IntN(20) == 0 {
		size = s.random.IntN(crashLargest)
	}
	return testnet.PDU(fmt.Sprintf("%d é🎁", s.count), s.ServerName, size)
}

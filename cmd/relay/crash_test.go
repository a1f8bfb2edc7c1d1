package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
)

const (
	crashSenders      = 16
	crashDestinations = 6
	crashLargest      = 100_000 // bytes of a PDU
	crashMostPDUs     = 8
)

// TestKill kills the program with SIGKILL while nodes send to it and fetch
// from it, again and again on the same file, and checks the mail that it then hands
// out: everything that was answered with 200, once, unchanged, in order, and
// with IDs that are never used again. RELAY_CRASH_ROUNDS is how often (default
// 3), RELAY_CRASH_SEED makes the same choices again, though not the same race.
func TestKill(t *testing.T) {
	rounds := seeds.Count(t, "RELAY_CRASH_ROUNDS", 3)
	seed := seeds.Of(t, "RELAY_CRASH_SEED")
	c := newCrash(t, seed, []string{"--db", database(t)})
	for range rounds {
		c.restart(0)
		c.fetchSome()
		c.underLoad(func() { c.relays[0].kill() })
		c.maybeKillAtStart()
	}
	c.restart(0)
	c.finish()
}

// A crash is a test under way, with one relay or several on one database.
type crash struct {
	t         *testing.T
	random    *rand.Rand
	arguments [][]string // of each relay
	command   func(relay int, args ...string) *exec.Cmd
	ledger    *ledger
	senders   []*sender
	to        []*relaytest.Node

	relays []*program
	roads  []atomic.Pointer[relaytest.Network] // to each relay

	answers atomic.Int64  // how many transactions were answered with 200
	starts  time.Duration // how long the last start took
	failing atomic.Bool   // something was or will be killed, so requests may fail
	over    atomic.Bool   // nodes are to stop
}

func newCrash(t *testing.T, seed uint64, arguments ...[]string) *crash {
	c := &crash{
		t: t, random: rand.New(rand.NewPCG(seed, 0)), ledger: newLedger(), arguments: arguments,
		relays: make([]*program, len(arguments)), roads: make([]atomic.Pointer[relaytest.Network], len(arguments)),
		command: func(_ int, args ...string) *exec.Cmd { return command(args...) },
	}
	for i := range crashDestinations {
		c.to = append(c.to, relaytest.NewNode(fmt.Sprintf("to %d", i)))
	}
	for i := range crashSenders {
		c.senders = append(c.senders, &sender{
			Node: relaytest.NewNode(fmt.Sprintf("from %d", i)), random: rand.New(rand.NewPCG(seed, uint64(i)+1)),
		})
	}
	return c
}

// restart starts some of the relays, all at once, since they may need each other.
func (c *crash) restart(which ...int) {
	begun := time.Now()
	for _, i := range which {
		c.relays[i] = c.launch(i)
	}
	for _, i := range which {
		c.relays[i].waitReady()
		c.roads[i].Store(c.relays[i].network())
	}
	c.starts = time.Since(begun)
}

func (c *crash) launch(i int) *program {
	args := append([]string{"--listen", "127.0.0.1:0", "--name", string(relayName)}, c.arguments[i]...)
	return launchCommand(c.t, c.command(i, args...))
}

// road leads to any of the relays.
func (c *crash) road() *relaytest.Network { return c.roads[rand.IntN(len(c.roads))].Load() }

// maybeKillAtStart kills the program now and then while it starts, at any moment
// of it, so that some kills come while it opens the file.
func (c *crash) maybeKillAtStart() {
	if c.random.IntN(3) > 0 {
		return
	}
	p := c.launch(0)
	time.Sleep(time.Duration(c.random.Int64N(int64(c.starts))))
	p.kill()
}

// fetchSome fetches all for some nodes, and a little or nothing for others.
func (c *crash) fetchSome() {
	for _, to := range c.to {
		switch c.random.IntN(4) {
		case 0: // left for later rounds
		case 1:
			c.fetch(to, 1+c.random.IntN(5))
		default:
			c.fetch(to, math.MaxInt)
		}
	}
}

// finish fetches everything, and stops the relays.
func (c *crash) finish() {
	for _, to := range c.to {
		c.fetch(to, math.MaxInt)
	}
	for _, relay := range c.relays {
		relay.signal(syscall.SIGTERM) // all at once: the last can't do without the others
	}
	for _, relay := range c.relays {
		require.Equal(c.t, 0, relay.status(), relay.logged())
	}
	sent, answered, more := c.ledger.count()
	c.t.Logf("%d sent, %d answered, %d arrived without an answer", sent, answered, more)
	require.NotZero(c.t, answered)
}

// underLoad has all nodes send, and some fetch, while something goes wrong.
func (c *crash) underLoad(fault func()) {
	var nodes sync.WaitGroup
	for _, s := range c.senders {
		nodes.Go(func() { c.send(s) })
	}
	for i := range c.random.IntN(2 * len(c.to)) { // some twice at once, as deployed nodes do
		nodes.Go(func() {
			for !c.over.Load() {
				c.fetch(c.to[i/2], math.MaxInt)
			}
		})
	}
	before, wait := c.answers.Load(), time.Now().Add(patience)
	for c.answers.Load() == before && !c.t.Failed() && time.Now().Before(wait) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(time.Duration(20+c.random.IntN(600)) * time.Millisecond)
	c.failing.Store(true)
	fault()
	c.over.Store(true)
	nodes.Wait()
	for i := range c.roads {
		c.roads[i].Load().CloseIdleConnections()
	}
	c.failing.Store(false)
	c.over.Store(false)
}

// send sends one transaction after the other.
func (c *crash) send(s *sender) {
	for !c.over.Load() {
		l := c.ledger.begin(s.next(c.to))
		err := put(c.t, c.road(), s.Node, l.Transaction)
		switch {
		case err == nil:
			c.ledger.answer(l)
			c.answers.Add(1)
			s.answered = append(s.answered, l)
		case c.failing.Load():
			s.unanswered = append(s.unanswered, l)
			time.Sleep(time.Millisecond) // nobody may be there
		default:
			c.t.Errorf("%s: %v", l.TransactionID, err)
			return
		}
	}
}

// fetch is the loop of deployed nodes: at most so many entries, or all.
func (c *crash) fetch(to *relaytest.Node, most int) {
	var last int64
	for range most {
		now := c.ledger.acknowledge(to.ServerName, last)
		answer, err := get(c.t, c.road(), to, last)
		if err != nil && c.failing.Load() {
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

// A sender is a node that sends. It remembers its mail, for repetitions.
type sender struct {
	*relaytest.Node
	random               *rand.Rand
	count                int
	answered, unanswered []*letter
}

// next chooses the mail to send: something new, or again mail that was not answered, or
// that was, or more under an ID that was used.
func (s *sender) next(to []*relaytest.Node) gomatrixserverlib.Transaction {
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

// retry is a retry as deployed nodes make it: the same events, at another time.
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
	return relaytest.PDU(fmt.Sprintf("%d é🎁", s.count), s.ServerName, size)
}

package main

import (
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
)

// moved is the log's line then.
const moved = "all mail is moved"

// TestMove fills a relay, restarts it with another database, and has its mail
// moved under load while it is killed again and again. Everything that was
// answered with 200 arrives once and in order. RELAY_CRASH_ROUNDS and
// RELAY_CRASH_SEED are as for TestKill.
func TestMove(t *testing.T) {
	testMove(t, fileOf, fileOf)
}

// A place is a database, and the options that the program needs besides to use it.
type place struct {
	db   string
	with []string
}

func fileOf(t *testing.T) place { return place{db: database(t)} }

// testMoveElsewhere is for stores that take long to start: with -short TestMove
// stands for them.
func testMoveElsewhere(t *testing.T, from, to func(*testing.T) place) {
	if testing.Short() {
		t.Skip("it takes long, and does what TestMove does")
	}
	testMove(t, from, to)
}

// testMove moves to a new and empty database, and between others if the mail was
// there before anything was killed.
func testMove(t *testing.T, from, to func(*testing.T) place) {
	for range 10 {
		if moveOnce(t, from(t), to(t)) > 0 {
			return
		}
		t.Log("no kill came while mail was on its way")
	}
	t.Fatal("no kill comes while mail is on its way")
}

// moveOnce returns how many kills came while mail was on its way.
func moveOnce(t *testing.T, from, to place) (onTheWay int) {
	rounds := seeds.Count(t, "RELAY_CRASH_ROUNDS", 1)
	seed := seeds.Of(t, "RELAY_CRASH_SEED")
	c := newCrash(t, seed, slices.Concat([]string{"--db", from.db}, from.with))
	c.restart(0)
	c.fill(100)
	for _, node := range c.to[:2] { // these have fetched everything before
		c.fetch(node, math.MaxInt)
	}
	c.fill(50)
	c.relays[0].stop()

	c.arguments[0] = slices.Concat([]string{"--db", to.db, "--move-from", from.db}, to.with, from.with)
	for round := range rounds {
		soon := func() { c.killSoon(50 * round) }
		for _, kill := range []func(){soon, func() { c.underLoad(c.relays[0].kill) }} {
			c.restart(0)
			kill()
			if !strings.Contains(c.relays[0].logged(), moved) {
				onTheWay++
			}
		}
	}
	c.restart(0)
	c.fetch(c.to[0], math.MaxInt)
	require.Eventually(t, func() bool { return strings.Contains(c.relays[0].logged(), moved) }, patience, 10*time.Millisecond, c.relays[0].logged())
	c.fill(10)
	c.fetch(c.to[1], math.MaxInt)
	c.relays[0].stop()

	c.arguments[0] = slices.Concat([]string{"--db", to.db}, to.with)
	c.restart(0)
	c.finish()
	t.Logf("killed %d times on the way", onTheWay)
	return onTheWay
}

// killSoon kills the program when it hasn't got far, in up to so many
// milliseconds.
func (c *crash) killSoon(most int) {
	time.Sleep(time.Duration(c.random.IntN(most+1)) * time.Millisecond)
	c.relays[0].kill()
}

// fill has every sender send so many transactions.
func (c *crash) fill(each int) {
	var nodes sync.WaitGroup
	for _, s := range c.senders {
		nodes.Go(func() {
			for range each {
				l := c.ledger.begin(s.next(c.to))
				if err := put(c.t, c.road(), s.Node, l.Transaction); err != nil {
					c.t.Errorf("%s: %v", l.TransactionID, err)
					return
				}
				c.ledger.answer(l)
				s.answered = append(s.answered, l)
			}
		})
	}
	nodes.Wait()
}

func TestMoveOptions(t *testing.T) {
	there := database(t)
	for want, args := range map[string][]string{
		"are the same":   {"--db", there, "--move-from", there},
		"nothing in mem": {"--db", there, "--move-from", inMemory},
	} {
		status, _, stderr := runToEnd(t, append([]string{"--name", "relay"}, args...)...)
		require.Equal(t, 2, status)
		require.Contains(t, stderr, want)
	}
	status, _, stderr := runToEnd(t, "--name", "relay", "--listen", "127.0.0.1:0", "--db", there, "--move-from", "missing.db")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "--move-from")
}

// The way back is refused for as long as it would lose mail.
func TestMoveBackTooSoon(t *testing.T) {
	from, to := database(t), database(t)
	first := start(t, "--db", from)
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	require.NoError(t, put(t, first.network(), a, a.Transaction(b.ServerName, "t1", 1, 500)))
	first.stop()
	second := start(t, "--db", to, "--move-from", from)
	require.Eventually(t, func() bool { return strings.Contains(second.logged(), moved) }, patience, 10*time.Millisecond)
	second.stop()
	status, _, stderr := runToEnd(t, "--name", "relay", "--listen", "127.0.0.1:0", "--db", from, "--move-from", to)
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "too recently")
}

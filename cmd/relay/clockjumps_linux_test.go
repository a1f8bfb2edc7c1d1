package main

import (
	"math"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
)

// TestClockJumps runs programs whose wall clock really is set: far ahead, back
// to 1970, while they run and between two runs. Nothing that was answered with
// 200 may be lost or hidden, neither while the clock is wrong nor later.
// RELAY_CLOCK_ROUNDS is how many things happen to each (default 150),
// RELAY_CLOCK_SEED makes the same choices again.
func TestClockJumps(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds everything anew, and its programs aren't built for the race detector")
	}
	path := withClock(t)
	t.Run("the clock is set", func(t *testing.T) { testClockIsSet(t, path) })
	t.Run("outbox", func(t *testing.T) { testOutboxClock(t, path) })
	t.Run("sqlite", func(t *testing.T) { clockJumps(t, path, []string{"--db", database(t)}) })
	t.Run("postgres", func(t *testing.T) {
		relay := []string{"--db", pgtest.New(t).Database(t)}
		clockJumps(t, path, relay, relay)
	})
}

// testClockIsSet makes sure of the test's own ground.
func testClockIsSet(t *testing.T, path string) {
	clock := newWallClock(t)
	clock.set(in1970())
	p := launchCommand(t, clock.command(path, "1", []string{"serve", "--listen", "127.0.0.1:0", "--name", "relay", "--db", inMemory}))
	p.waitReady()
	require.Contains(t, p.logged(), "time=1970-")
	clock.set(40 * day)
	p.stop()
	require.NotContains(t, p.logged(), "failed")
}

const day = 24 * time.Hour

func in1970() time.Duration { return time.Hour - time.Since(time.Unix(0, 0)) }

// jumps are where a clock may go.
func jumps() []time.Duration {
	return []time.Duration{32 * day, 40 * day, -40 * day, 2 * time.Hour, -2 * time.Hour, in1970(), toYear(2100)}
}

func toYear(year int) time.Duration { return time.Until(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)) }

// A clockStory is relays on one database, each with a clock of its own.
type clockStory struct {
	*crash
	clocks []*wallClock
	full   int // puts that were refused
}

// clockMost is how many transactions a mailbox may have. At a full one, a relay
// looks whether something has expired.
const clockMost = "12"

func clockJumps(t *testing.T, path string, arguments ...[]string) {
	rounds := seeds.Count(t, "RELAY_CLOCK_ROUNDS", 150)
	seed := seeds.Of(t, "RELAY_CLOCK_SEED")
	s := &clockStory{crash: newCrash(t, seed, arguments...)}
	for i := range arguments {
		s.arguments[i] = append(arguments[i][:len(arguments[i]):len(arguments[i])], "--max-entries", clockMost, "--origin-share", "1")
		s.clocks = append(s.clocks, newWallClock(t))
	}
	s.command = func(relay int, args ...string) *exec.Cmd {
		return s.clocks[relay].command(path, "1", append([]string{"serve"}, args...))
	}
	s.jump() // the machine boots with a wrong clock
	s.restart(s.random.Perm(len(s.relays))...)
	for range rounds {
		s.step()
	}
	for _, clock := range s.clocks {
		clock.set(0)
	}
	s.finish()
	sent, answered, _ := s.ledger.count()
	require.Equal(t, sent, answered+s.full, "of these, %d are for full mailboxes", s.full)
	require.Greater(t, answered, sent/2)
}

func (s *clockStory) step() {
	switch choice := s.random.IntN(100); {
	case choice < 60:
		for range 1 + s.random.IntN(4) {
			s.put()
		}
	case choice < 72:
		s.fetch(s.to[s.random.IntN(len(s.to))], 1+s.random.IntN(8))
	case choice < 76:
		s.fetch(s.to[s.random.IntN(len(s.to))], math.MaxInt)
	case choice < 80:
		s.acknowledgeAgain(s.to[s.random.IntN(len(s.to))])
	case choice < 90:
		s.jump()
	case choice < 95:
		s.clocks[s.random.IntN(len(s.clocks))].set(0)
	default:
		i := s.random.IntN(len(s.relays))
		if s.random.IntN(2) == 0 {
			s.relays[i].kill()
		} else {
			s.relays[i].stop()
		}
		if s.random.IntN(2) == 0 {
			s.jump()
		}
		s.restart(i)
	}
}

func (s *clockStory) jump() {
	where := append(jumps(), toYear(2200)) // too late for package time to keep beside a monotonic reading
	s.clocks[s.random.IntN(len(s.clocks))].set(where[s.random.IntN(len(where))])
}

func (s *clockStory) put() {
	from := s.senders[s.random.IntN(len(s.senders))]
	l := s.ledger.begin(from.next(s.to))
	if err := put(s.t, s.road(), from.Node, l.Transaction); err != nil {
		require.ErrorContains(s.t, err, "M_RESOURCE_LIMIT_EXCEEDED")
		s.full++
		return
	}
	s.ledger.answer(l)
	from.answered = append(from.answered, l)
}

// acknowledgeAgain acknowledges an entry that was acknowledged before, maybe by
// a process that had another clock. It must take nothing else away.
func (s *clockStory) acknowledgeAgain(to *relaytest.Node) {
	old := s.ledger.acknowledged(to.ServerName)
	if len(old) == 0 {
		return
	}
	_, err := get(s.t, s.road(), to, old[s.random.IntN(len(old))])
	require.NoError(s.t, err)
}

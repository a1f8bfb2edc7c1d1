//go:build unix

package main

import (
	"syscall"
	"testing"
	"time"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/internal/seeds"
)

// A trouble is one that may happen to relays that share a database.
type trouble struct {
	name string
	do   func(*crash)
}

var troubles = []trouble{
	{"one is killed", func(c *crash) { c.killAndRestart(c.random.IntN(len(c.relays))) }},
	{"one is stopped", func(c *crash) {
		i := c.random.IntN(len(c.relays))
		c.relays[i].stop()
		c.pause(1000)
		c.restart(i)
	}},
	{"one stands still", func(c *crash) {
		relay := c.relays[c.random.IntN(len(c.relays))]
		relay.signal(syscall.SIGSTOP)
		c.pause(6000)
		relay.signal(syscall.SIGCONT)
	}},
	{"all are killed", func(c *crash) { c.killAndRestart(c.random.Perm(len(c.relays))...) }},
}

func (c *crash) killAndRestart(which ...int) {
	for _, i := range which {
		c.relays[i].kill()
	}
	c.pause(1000)
	c.restart(which...)
}

// pause is for up to so many milliseconds.
func (c *crash) pause(most int) { time.Sleep(time.Duration(c.random.IntN(most)) * time.Millisecond) }

// TestKillSeveral has nodes send to several relays on one database, and fetch
// from any of them, while relays and servers that keep the database are killed. It
// checks the same as TestKill, with the same RELAY_CRASH_ROUNDS (default 1) and
// RELAY_CRASH_SEED.
func TestKillSeveral(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.New(t)
		relay := []string{"--db", server.Database(t)}
		killSeveral(t, [][]string{relay, relay}, append(troubles, trouble{"the server is killed", func(c *crash) {
			server.Kill()
			c.pause(1000)
			server.Start(t)
		}}))
	})
	t.Run("nats", func(t *testing.T) { killSeveral(t, natsCluster(t), troubles) })
}

func killSeveral(t *testing.T, arguments [][]string, troubles []trouble) {
	rounds := seeds.Count(t, "RELAY_CRASH_ROUNDS", 1)
	seed := seeds.Of(t, "RELAY_CRASH_SEED")
	c := newCrash(t, seed, arguments...)
	all := c.random.Perm(len(arguments))
	c.restart(all...)
	for round := range rounds {
		if round%len(troubles) == 0 {
			c.random.Shuffle(len(troubles), func(i, j int) { troubles[i], troubles[j] = troubles[j], troubles[i] })
		}
		c.fetchSome()
		happens := troubles[round%len(troubles)]
		c.underLoad(func() {
			happens.do(c)
			c.pause(500)
		})
		t.Logf("round %d: %s", round+1, happens.name)
	}
	c.finish()
}

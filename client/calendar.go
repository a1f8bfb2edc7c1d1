package client

import (
	"sync"
	"time"

	"github.com/matrixrelay/relay/internal/stopwatch"
)

// A calendar tells whether a date is past, though the clock of the machine may be
// wrong for a while. It believes that a date is past only if the clock said so at all
// looks for long enough, by time that passes and not by the clock.
type calendar struct {
	wall     func() time.Time // the clock of the machine
	patience time.Duration

	mu     sync.Mutex
	passed stopwatch.Stopwatch
	looks  reading // since is the first, ahead the least of all
}

// A reading is how much time has passed, and how far the clock is ahead of that.
type reading struct{ since, ahead time.Duration }

func newCalendar(wall func() time.Time, patience time.Duration) *calendar {
	c := &calendar{wall: wall, patience: patience, passed: stopwatch.Start(time.Now())}
	c.looks = c.read()
	return c
}

func (c *calendar) read() reading {
	passed := c.passed.Read()
	return reading{passed, c.wall().Sub(time.Unix(0, 0)) - passed}
}

// look reads the clock. The more often, the better.
func (c *calendar) look() (now reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = c.read()
	c.looks.ahead = min(c.looks.ahead, now.ahead)
	return now
}

// isPast reports whether a date is past, and whether that is certain.
func (c *calendar) isPast(date time.Time) (past, certain bool) {
	now := c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	is := func(ahead time.Duration) bool { return time.Unix(0, 0).Add(ahead + now.since).After(date) }
	switch {
	case !is(now.ahead):
		return false, true
	case !is(c.looks.ahead): // the clock was set forward, or it was wrong before
		c.looks = now
		return true, c.patience <= 0
	}
	return true, now.since-c.looks.since >= c.patience
}

// Package steady is the clock by which a store counts how long it keeps mail.
//
// It counts milliseconds and runs only while a store is open, by the time that
// passes and never by the clock of the machine, which may be wrong and jump. A
// store keeps where it stood beside its mail and goes on from there at the next
// open. A store that is made starts it at the machine's time, so that its values
// can be read as Unix milliseconds, at about.
//
// Of several processes on one store each runs a Clock of its own. Each brings its
// clock to at least the time that another one wrote, and writes its own when that is
// larger. All of them count real time, so none gets ahead of it, and together
// they count as long as one of them is open.
package steady

import (
	"math"
	"sync"
	"time"

	"github.com/matrixrelay/relay/internal/stopwatch"
)

// Never is the until of mail that the store keeps for ever.
const Never = math.MaxInt64

// A Clock is safe for concurrent use. Make one with Start.
type Clock struct {
	mu  sync.Mutex
	at  int64 // where it stood when it was started
	ran stopwatch.Stopwatch
}

// Start returns a clock that stands at that many milliseconds and runs.
func Start(at int64) *Clock { return &Clock{at: at, ran: stopwatch.Start(time.Now())} }

// Now is where the clock stands, in milliseconds. It never goes back.
func (c *Clock) Now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

// Raise brings the clock to at least where that of another process stood.
func (c *Clock) Raise(at int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at += max(0, at-c.now())
}

func (c *Clock) now() int64 { return c.at + c.ran.Read().Milliseconds() }

// Until is when a lifetime that begins at now is over; 0 or less is Never.
func Until(now int64, lifetime time.Duration) int64 {
	if lifetime <= 0 {
		return Never
	}
	millis := lifetime.Milliseconds()
	if lifetime%time.Millisecond > 0 {
		millis++
	}
	return now + millis
}

// Left is the rest at now of a lifetime: at least a millisecond, and 0 for
// one that never ends.
func Left(now, until int64) time.Duration {
	if until == Never {
		return 0
	}
	const most = math.MaxInt64 / int64(time.Millisecond) // a value that is damaged, or from before this clock
	return time.Duration(min(max(until-now, 1), most)) * time.Millisecond
}

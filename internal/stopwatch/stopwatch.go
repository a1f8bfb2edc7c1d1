// Package stopwatch counts time that passes, even while the machine's clock is set.
package stopwatch

import "time"

// A Stopwatch runs from when it was started. It isn't safe for concurrent use.
type Stopwatch struct {
	ran   time.Duration
	since time.Time // has a monotonic reading, which no one can set
}

// noReading is from when on package time has no room for a monotonic reading.
var noReading = time.Date(2157, 1, 1, 0, 0, 0, 0, time.UTC)

// Start returns a Stopwatch that has run since then, a time that time.Now returned.
func Start(since time.Time) Stopwatch { return Stopwatch{since: since} }

// Read returns how much time has passed. It never goes back.
func (s *Stopwatch) Read() time.Duration {
	passed := time.Since(s.since)
	if s.since.Before(noReading) {
		return s.ran + passed
	}
	// Until there is a reading, only the time between two calls counts, and no more
	// of it than is likely.
	s.ran, s.since = s.ran+min(max(passed, 0), time.Minute), time.Now()
	return s.ran
}

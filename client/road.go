package client

import (
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A road is one way to a destination: to the destination itself, or to one of
// its relays. Each is served by itself, so none holds up another.
type road struct {
	to    *destination
	relay spec.ServerName // empty: it leads to the destination itself

	health
	place
	news news // since it was last taken
}

func (r *road) isDirect() bool { return r.relay == "" }

// news is why a road may have to be served before its time.
type news struct {
	fresh bool // there is something to do on it
	seen  bool // the destination was seen
}

// A state is where a road is in the schedule.
type state int

const (
	nowhere state = iota
	idle          // there is nothing to do on it until there are news
	ready         // it is in the queue of its class
	served        // a worker has it
	waiting       // nothing is done before a certain time
	states
)

// A change is an event that may change the state of a road.
type change int

const (
	wakes  change = iota // there are news that count now
	comes                // its time has come
	taken                // a worker takes it
	rests                // the worker found nothing left to do
	goesOn               // the worker's turn is over, and there is more to do now
	pauses               // it is to be served at a certain time
	changes
)

// transitions say which state follows. A change that isn't in it changes nothing.
var transitions = [states][changes]state{
	idle:    {wakes: ready, pauses: waiting},
	ready:   {wakes: ready, taken: served}, // to another class
	served:  {rests: idle, goesOn: ready, pauses: waiting},
	waiting: {wakes: ready, comes: ready, pauses: waiting}, // until another time
}

// A place is where a road is in the schedule, which guards it.
type place struct {
	state  state
	class  class // if it is ready or served
	until  time.Time
	inHeap int
}

// Before says which of two roads that wait is served first.
func (r *road) Before(other *road) bool { return r.until.Before(other.until) }

// Index is the place of a road among those that wait.
func (r *road) Index() *int { return &r.inHeap }

// A class is how soon a turn is likely to be over. Turns of one class and those
// after it may only keep a share of the workers busy, so that those before it
// never wait for them.
type class int

const (
	answering class = iota // the destination answered last time, or was seen since
	relaying               // a relay, unless it failed last time
	unknown                // a destination that was never tried
	failing                // it failed last time
	classes
)

// class says in which class a road is now.
func (r *road) classNow() class {
	switch {
	case r.isDirect() && r.answers:
		return answering
	case !r.isDirect() && (r.answers || !r.tried):
		return relaying
	case !r.tried:
		return unknown
	default:
		return failing
	}
}

// An outcome is how a turn ended.
type outcome int

const (
	failed    outcome = iota // an attempt failed
	exhausted                // there is nothing left to do
	more                     // there is more to do
	held                     // the next transaction isn't to be sent now
	owing                    // there is nothing left but transactions that the relay couldn't take
	troubled                 // the source or the store failed
)

// A turn is a worker's report of one.
type turn struct {
	outcome  outcome
	answered bool          // an attempt succeeded
	wait     time.Duration // at least; of failed, held and owing
}

// isGood reports whether nothing failed.
func (t turn) isGood() bool { return t.outcome == exhausted || t.outcome == more || t.outcome == owing }

// health is the record of a road's turns. The schedule guards it.
type health struct {
	tried    bool      // at all, or its destination counted as offline before
	answers  bool      // the last attempt succeeded, or the destination was seen since
	failures int       // in a row
	due      time.Time // when the next attempt is

	open bool // while it waits, new transactions needn't

	bySeen       bool // this turn is since the destination was seen
	seenFailures int  // such attempts in a row that failed
	seenDue      time.Time

	troubles int // in a row
}

// mostSeenPause bounds how long a destination that was seen isn't tried, if it
// didn't take anything the last times that it was.
const mostSeenPause = time.Minute

// note notes the result of a turn. A relay's back-off is the Sender's, which has it
// for all destinations; t.wait holds it.
func (r *road) note(t turn, b Backoff, now time.Time) {
	r.tried, r.open = true, t.outcome == owing
	if t.outcome != troubled {
		r.troubles = 0
	}
	if t.answered {
		r.failures, r.seenFailures, r.seenDue = 0, 0, time.Time{}
	}
	switch t.outcome {
	case exhausted, more:
		r.due = time.Time{}
	case held, owing:
		r.due = now.Add(t.wait)
	case troubled:
		r.troubles++
		r.due = now.Add(b.after(r.troubles, 0))
		r.seenDue = r.due // or transactions that can't be taken off would be sent again and again
	case failed:
		r.failed(t.wait, b, now)
	}
}

// failed notes an attempt that failed. Two servers that are seen by each other's
// attempts mustn't have each other tried without a pause.
func (r *road) failed(wait time.Duration, b Backoff, now time.Time) {
	r.failures++
	if r.isDirect() {
		wait = b.after(r.failures, wait)
	}
	r.due = now.Add(wait)
	if !r.bySeen {
		r.seenFailures, r.seenDue = 0, time.Time{}
		return
	}
	r.seenFailures++
	r.seenDue = now.Add(min(mostSeenPause, b.after(r.seenFailures, 0)))
}

// isDue reports whether an attempt may be made.
func (r *road) isDue(now time.Time) bool {
	return !r.due.After(now) || r.news.seen && !r.seenDue.After(now)
}

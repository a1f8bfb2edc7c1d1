package client

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/heap"
)

// A schedule says which roads are served now, next, and later.
type schedule struct {
	workers int
	backoff Backoff

	mu       sync.Mutex
	all      map[spec.ServerName]*destination // those with something to do
	answered map[spec.ServerName]struct{}     // last time, and have nothing to do now
	ready    [classes][]*road
	busy     [classes]int // roads being served
	waiting  heap.Heap[*road]
	changed  chan struct{}
}

// A destination is a server that there is something for.
type destination struct {
	name  spec.ServerName
	roads map[spec.ServerName]*road // by relay; "": direct; the schedule's

	mu     sync.Mutex // held while an event is told, so that they are in order
	ended  int64      // the position up to which transactions have ended
	relays map[spec.ServerName]*progress
}

func newSchedule(workers int, b Backoff) *schedule {
	return &schedule{
		workers: workers, backoff: b, changed: make(chan struct{}, 1),
		all: make(map[spec.ServerName]*destination), answered: make(map[spec.ServerName]struct{}),
	}
}

// limit is how many workers may serve roads of this class and those after it.
func (s *schedule) limit(c class) int { return max(1, s.workers*int(classes-c)/int(classes)) }

// find returns a destination that there is something for, or nil.
func (s *schedule) find(name spec.ServerName) *destination {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[name]
}

// fresh says that there is a new transaction for a destination, and which of its
// relays are to be used, if it counts as offline.
func (s *schedule) fresh(name spec.ServerName, offline bool, relays []spec.ServerName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake(s.add(name, offline), news{fresh: true})
	s.wakeRelays(name, relays)
}

// open says that there is something for a destination when the Outbox is
// opened. One that counted as offline isn't tried directly before that time.
func (s *schedule) open(name spec.ServerName, offline bool, relays []spec.ServerName, from time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.add(name, offline); offline {
		r.due = from
		s.move(r, pauses, from)
	} else {
		s.wake(r, news{fresh: true})
	}
	s.wakeRelays(name, relays)
}

// add returns the direct road to a destination.
func (s *schedule) add(name spec.ServerName, offline bool) *road {
	d := s.all[name]
	if d == nil {
		d = &destination{name: name, relays: make(map[spec.ServerName]*progress), roads: make(map[spec.ServerName]*road)}
		s.all[name] = d
		direct := s.addRoad(d, "")
		direct.tried = offline
		_, direct.answers = s.answered[name]
		delete(s.answered, name)
	}
	return d.roads[""]
}

func (s *schedule) addRoad(d *destination, relay spec.ServerName) *road {
	r := &road{to: d, relay: relay, place: place{state: idle}}
	d.roads[relay] = r
	return r
}

// useRelays has relays of a destination served that have rested.
func (s *schedule) useRelays(name spec.ServerName, relays []spec.ServerName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeRelays(name, relays)
}

func (s *schedule) wakeRelays(name spec.ServerName, relays []spec.ServerName) {
	d := s.all[name]
	if d == nil {
		return
	}
	for _, relay := range relays {
		r := d.roads[relay]
		if r == nil {
			r = s.addRoad(d, relay)
		}
		s.wake(r, news{fresh: true})
	}
}

// seen says that a destination was seen.
func (s *schedule) seen(name spec.ServerName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.all[name]; d != nil {
		s.wake(d.roads[""], news{seen: true})
	} else {
		s.remember(name)
	}
}

// anew forgets how attempts on all roads went, and has those served that wait.
func (s *schedule) anew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, d := range s.all {
		for _, r := range d.roads {
			r.health = health{answers: r.answers}
			if r.state == ready || r.state == waiting {
				s.move(r, wakes, now)
			}
		}
	}
	s.tell()
}

// wake has a road served now, if the news are a reason to.
func (s *schedule) wake(r *road, n news) {
	r.news.fresh, r.news.seen = r.news.fresh || n.fresh, r.news.seen || n.seen
	now := time.Now()
	better := n.seen && r.seenFailures == 0 && !r.answers // others needn't be tried before it
	r.answers = r.answers || better && r.state != served
	switch {
	case r.state == idle, r.state == ready && better, r.state == waiting && (n.fresh && r.open || n.seen && r.isDue(now)):
		s.move(r, wakes, now)
	case r.state == waiting && n.seen && r.seenDue.Before(r.until):
		s.move(r, pauses, r.seenDue)
	}
	s.tell()
}

// move changes the state of a road; until is for those that wait.
func (s *schedule) move(r *road, c change, until time.Time) {
	next := transitions[r.state][c]
	if next == nowhere {
		return
	}
	s.leave(r)
	r.state = next
	switch next {
	case ready:
		r.class = r.classNow()
		s.ready[r.class] = append(s.ready[r.class], r)
	case served:
		s.busy[r.class]++
	case waiting:
		r.until = until
		s.waiting.Push(r)
	}
}

func (s *schedule) leave(r *road) {
	switch r.state {
	case ready:
		queue := s.ready[r.class]
		if queue[0] == r {
			queue[0] = nil
			s.ready[r.class] = queue[1:]
		} else {
			s.ready[r.class] = slices.DeleteFunc(queue, func(other *road) bool { return other == r })
		}
	case served:
		s.busy[r.class]--
	case waiting:
		s.waiting.Remove(r)
	}
}

// maxAnswered bounds how many destinations without roads are remembered.
const maxAnswered = 64 << 10

// remember notes that a destination answers. When there are too many, it
// forgets any of them.
func (s *schedule) remember(name spec.ServerName) {
	makeRoom(s.answered, maxAnswered)
	s.answered[name] = struct{}{}
}

func (s *schedule) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// dispatch has workers serve the roads until ctx ends, and waits for them.
func (s *schedule) dispatch(ctx context.Context, serve func(context.Context, *road) turn) {
	var all sync.WaitGroup
	defer all.Wait()
	for ctx.Err() == nil {
		r, wait := s.take()
		if r != nil {
			all.Go(func() { s.done(r, serve(ctx, r)) })
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.changed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// take returns a road to serve, or how long there is none.
func (s *schedule) take() (*road, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for len(s.waiting) > 0 && !s.waiting[0].until.After(now) {
		s.move(s.waiting[0], comes, now)
	}
	for c := range classes {
		if len(s.ready[c]) > 0 && s.isFree(c) {
			r := s.ready[c][0]
			s.move(r, taken, now)
			r.bySeen, r.news = r.news.seen, news{}
			return r, 0
		}
	}
	if len(s.waiting) > 0 {
		return nil, time.Until(s.waiting[0].until)
	}
	return nil, time.Hour
}

// isFree reports whether a worker may take a road of this class.
func (s *schedule) isFree(c class) bool {
	busy := 0
	for later := classes - 1; later >= 0; later-- {
		if busy += s.busy[later]; later <= c && busy >= s.limit(later) {
			return false
		}
	}
	return true
}

// done says when a road is to be served again.
func (s *schedule) done(r *road, t turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	r.note(t, s.backoff, now)
	r.answers = t.isGood() && (t.answered || !r.isDirect()) || r.news.seen && r.seenFailures == 0
	switch {
	case t.outcome == exhausted && !r.news.fresh:
		s.move(r, rests, now)
		s.drop(r.to)
	case t.outcome == exhausted || t.outcome == more || t.outcome == owing && r.news.fresh:
		s.move(r, goesOn, now)
	case r.news.seen && r.seenDue.Before(r.due):
		s.move(r, pauses, r.seenDue)
	default:
		s.move(r, pauses, r.due)
	}
	s.tell()
}

// drop forgets a destination on whose roads there is nothing to do. As long as
// the direct one isn't idle, something is left.
func (s *schedule) drop(d *destination) {
	for _, r := range d.roads {
		if r.state != idle {
			return
		}
	}
	delete(s.all, d.name)
	if d.roads[""].answers {
		s.remember(d.name)
	}
}

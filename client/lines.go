package client

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// lines are the destinations of an Outbox that have something to send: which
// of them is served now, next, and later.
type lines struct {
	workers int
	offline func(spec.ServerName) bool

	mu       sync.Mutex
	all      map[spec.ServerName]*line
	answered map[spec.ServerName]struct{} // last time, and have no line now
	ready    [classes][]*line
	busy     [classes]int // lines being served
	waiting  timed
	changed  chan struct{}
}

// A line is a destination.
type line struct {
	destination spec.ServerName

	// Only the worker that serves it touches these.
	failures int       // direct attempts in a row
	directAt time.Time // when the next one is due
	relayed  int64     // the newest entry that relays have, or have refused
	refused  int64     // the newest entry that all relays have refused

	relayFailures int // to leave entries at relays, since one was taken

	troubles int // with the store, in a row

	seen         bool      // this turn's direct attempt is made since it was seen
	seenFailures int       // such attempts in a row that failed
	seenAt       time.Time // from when on being seen is a reason for one

	// The rest belongs to lines.
	direct    bool  // this turn may begin with a direct attempt
	answers   bool  // it answered last time, or was seen since
	tried     bool  // it was tried at all, or counted as offline before
	queue     class // that it is in, or was taken from
	relaysTry bool  // its relays took all there was: new transactions needn't wait
	state     lineState
	news      news // since it was last taken
	until     time.Time
	inHeap    int
}

// news is why a line may have to be served before its time.
type news struct {
	fresh  bool // there is a new transaction
	seen   bool // the destination was seen
	relays bool // it has other relays
}

type lineState int

const (
	idle lineState = iota
	ready
	served
	waits
)

// A class is how soon a turn is likely to be over. Turns of one class and those
// after it may only keep a share of the workers busy, so that those before it
// never wait for them.
type class int

const (
	answering class = iota // the destination answered last time
	relaying               // only relays are asked
	unknown                // the destination was never tried
	failing                // it failed last time
	classes
)

// limit is how many workers may serve lines of this class and those after it.
func (s *lines) limit(c class) int { return max(1, s.workers*int(classes-c)/int(classes)) }

func newLines(workers int, offline func(spec.ServerName) bool) *lines {
	return &lines{
		workers: workers, offline: offline, changed: make(chan struct{}, 1),
		all: make(map[spec.ServerName]*line), answered: make(map[spec.ServerName]struct{}),
	}
}

// setRelayed says what relays have, and have refused, of a destination that
// isn't served yet.
func (s *lines) setRelayed(destination spec.ServerName, relayed, refused int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.all[destination]; l != nil {
		l.relayed, l.refused = relayed, refused
	}
}

// staggered is how far apart destinations that counted as offline before are
// tried, so that opening an Outbox is no rush.
const staggered = 10 * time.Millisecond

// stagger puts off the direct attempts at destinations that count as offline,
// by at most that. Those that have relays are served through these before.
func (s *lines) stagger(most time.Duration, hasRelays func(spec.ServerName) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	offline := s.ready[failing]
	s.ready[failing] = nil
	now := time.Now()
	for i, l := range offline {
		l.directAt = now.Add(min(most, time.Duration(i+1)*staggered))
		if hasRelays(l.destination) {
			s.makeReady(l)
		} else {
			s.wait(l, l.directAt)
		}
	}
}

// wakeUp makes a destination ready if the news are a reason to.
func (s *lines) wakeUp(destination spec.ServerName, n news) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.all[destination]
	if l == nil && !n.fresh {
		if n.seen {
			s.remember(destination)
		}
		return // nothing waits for it
	}
	if l == nil {
		_, answers := s.answered[destination]
		delete(s.answered, destination)
		l = &line{destination: destination, answers: answers, tried: s.offline(destination)}
		s.all[destination] = l
	}
	l.news.fresh, l.news.seen, l.news.relays = l.news.fresh || n.fresh, l.news.seen || n.seen, l.news.relays || n.relays
	switch l.state {
	case idle:
		l.answers = l.answers || n.seen
		s.makeReady(l)
	case waits:
		l.answers = l.answers || n.seen && l.seenFailures == 0
		if n.relays || l.relaysTry || n.seen && l.mayTry(time.Now()) {
			heap.Remove(&s.waiting, l.inHeap)
			s.makeReady(l)
		} else if n.seen && l.seenAt.Before(l.until) {
			heap.Remove(&s.waiting, l.inHeap)
			s.wait(l, l.seenAt)
		}
	case ready:
		if n.seen && l.seenFailures == 0 && !l.answers { // others needn't be tried before it
			l.answers = true
			queue := s.ready[l.queue]
			s.ready[l.queue] = slices.DeleteFunc(queue, func(other *line) bool { return other == l })
			s.makeReady(l)
		}
	case served:
	}
	s.tell()
}

// maxAnswered bounds what is remembered of destinations without lines.
const maxAnswered = 64 << 10

// remember notes that a destination answers. When there are too many, it
// forgets any of them.
func (s *lines) remember(destination spec.ServerName) {
	makeRoom(s.answered, maxAnswered)
	s.answered[destination] = struct{}{}
}

func (s *lines) makeReady(l *line) {
	l.state = ready
	l.queue = s.classOf(l)
	s.ready[l.queue] = append(s.ready[l.queue], l)
}

func (s *lines) classOf(l *line) class {
	switch {
	case l.answers:
		return answering
	case !l.mayTry(time.Now()):
		return relaying
	case !l.tried:
		return unknown
	default:
		return failing
	}
}

// mayTry reports whether a direct attempt is due.
func (l *line) mayTry(now time.Time) bool {
	return !l.directAt.After(now) || l.news.seen && !l.seenAt.After(now)
}

// mostSeenPause bounds how long a destination that was seen isn't tried, if it
// didn't take anything the last times that it was.
const mostSeenPause = time.Minute

// failed notes a direct attempt that failed. Two servers that are seen by each
// other's attempts mustn't have each other tried without a pause.
func (l *line) failed(b Backoff, asked time.Duration) {
	now := time.Now()
	l.failures++
	l.directAt = now.Add(b.after(l.failures, asked))
	if !l.seen {
		l.seenFailures, l.seenAt = 0, time.Time{}
		return
	}
	l.seenFailures++
	l.seenAt = now.Add(min(mostSeenPause, b.after(l.seenFailures, 0)))
}

func (l *line) succeeded() {
	l.failures, l.directAt = 0, time.Time{}
	l.seenFailures, l.seenAt = 0, time.Time{}
}

// isSeen reports whether a line that is served should end its turn, since its
// destination was seen meanwhile.
func (s *lines) isSeen(l *line) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.news.seen && !l.seenAt.After(time.Now())
}

func (s *lines) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// dispatch has workers serve the lines until ctx ends, and waits for them.
func (s *lines) dispatch(ctx context.Context, serve func(context.Context, *line) turn) {
	var all sync.WaitGroup
	defer all.Wait()
	for ctx.Err() == nil {
		l, wait := s.take()
		if l != nil {
			all.Go(func() { s.done(l, serve(ctx, l)) })
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

// take returns a line to serve, or how long there is none.
func (s *lines) take() (*line, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for len(s.waiting) > 0 && !s.waiting[0].until.After(now) {
		s.makeReady(heap.Pop(&s.waiting).(*line))
	}
	for c := range classes {
		if len(s.ready[c]) > 0 && s.isFree(c) {
			return s.start(c, now), 0
		}
	}
	if len(s.waiting) > 0 {
		return nil, time.Until(s.waiting[0].until)
	}
	return nil, time.Hour
}

// isFree reports whether a worker may take a line of this class.
func (s *lines) isFree(c class) bool {
	busy := 0
	for later := classes - 1; later >= 0; later-- {
		if busy += s.busy[later]; later <= c && busy >= s.limit(later) {
			return false
		}
	}
	return true
}

func (s *lines) start(c class, now time.Time) *line {
	l := s.ready[c][0]
	s.ready[c][0] = nil
	s.ready[c] = s.ready[c][1:]
	s.busy[c]++
	l.state = served
	// A line of relaying is served as such, even if its time has come since.
	l.direct = l.mayTry(now) && (c != relaying || l.news.seen)
	l.seen = l.direct && l.news.seen
	l.news = news{seen: l.news.seen && !l.direct} // else it was seen too early
	return l
}

// done says when a line is to be served again.
func (s *lines) done(l *line, t turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy[l.queue]--
	l.answers, l.relaysTry = t.answers || l.news.seen && l.seenFailures == 0, t.relayed
	l.tried = true
	switch {
	case t.empty && !l.news.fresh:
		delete(s.all, l.destination)
		if l.answers {
			s.remember(l.destination)
		}
	case t.empty || t.answers || l.news.relays || l.news.fresh && t.relayed:
		s.makeReady(l)
	case l.news.seen && l.seenAt.Before(t.until):
		s.wait(l, l.seenAt)
	default:
		s.wait(l, t.until)
	}
	s.tell()
}

func (s *lines) wait(l *line, until time.Time) {
	l.state, l.until = waits, until
	heap.Push(&s.waiting, l)
}

// timed is a heap of lines, the first to be served on top.
type timed []*line

func (h timed) Len() int           { return len(h) }
func (h timed) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h timed) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].inHeap, h[j].inHeap = i, j
}

func (h *timed) Push(x any) {
	l := x.(*line)
	l.inHeap = len(*h)
	*h = append(*h, l)
}

func (h *timed) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return l
}

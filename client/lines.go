package client

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// lines are the destinations of an Outbox that have something to send: which
// of them is served now, next, and later.
type lines struct {
	workers int

	mu         sync.Mutex
	all        map[spec.ServerName]*line
	answered   map[spec.ServerName]struct{} // last time, and have no line now
	live       []*line                      // ready, and answered last time
	others     []*line                      // ready
	waiting    timed
	busy       int // lines being served
	busyOthers int // of these, those that were taken from others
	changed    chan struct{}
}

// A line is a destination. Only the worker that serves it touches failures and
// relayed, the rest belongs to lines.
type line struct {
	destination spec.ServerName
	failures    int
	relayed     int64 // the newest entry that relays have

	alive     bool // it answered last time, or was seen since
	fromLive  bool // the queue that it was taken from
	relaysTry bool // its relays took all there was: new transactions needn't wait
	state     lineState
	again     bool // something came up while it was served
	seen      bool // it was seen while it was served
	until     time.Time
	inHeap    int
}

type lineState int

const (
	idle lineState = iota
	ready
	served
	waits
)

func newLines(workers int) *lines {
	return &lines{
		workers: workers, changed: make(chan struct{}, 1),
		all: make(map[spec.ServerName]*line), answered: make(map[spec.ServerName]struct{}),
	}
}

// add makes a destination ready.
func (s *lines) add(destination spec.ServerName) { s.wakeUp(destination, false) }

// setRelayed says what relays have of a destination that isn't served yet.
func (s *lines) setRelayed(destination spec.ServerName, id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.all[destination]; l != nil {
		l.relayed = id
	}
}

// wakeUp makes a destination ready: because there is something new for it, or
// because it was seen.
func (s *lines) wakeUp(destination spec.ServerName, seen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.all[destination]
	if l == nil && seen {
		s.remember(destination) // nothing waits for it
		return
	}
	if l == nil {
		_, alive := s.answered[destination]
		delete(s.answered, destination)
		l = &line{destination: destination, alive: alive}
		s.all[destination] = l
	}
	l.alive = l.alive || seen
	switch l.state {
	case idle:
		s.ready(l)
	case waits:
		if seen || l.relaysTry {
			heap.Remove(&s.waiting, l.inHeap)
			s.ready(l)
		}
	case served:
		l.again, l.seen = true, l.seen || seen
	case ready:
	}
	s.tell()
}

// maxAnswered bounds what is remembered of destinations without lines.
const maxAnswered = 64 << 10

// remember notes that a destination answers. When there are too many, it
// forgets any of them.
func (s *lines) remember(destination spec.ServerName) {
	for name := range s.answered {
		if len(s.answered) < maxAnswered {
			break
		}
		delete(s.answered, name)
	}
	s.answered[destination] = struct{}{}
}

func (s *lines) ready(l *line) {
	l.state = ready
	if l.alive {
		s.live = append(s.live, l)
	} else {
		s.others = append(s.others, l)
	}
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
		s.ready(heap.Pop(&s.waiting).(*line))
	}
	if s.busy < s.workers && len(s.live) > 0 {
		return s.start(&s.live), 0
	}
	if s.busy < s.workers && s.busyOthers < max(1, s.workers*3/4) && len(s.others) > 0 {
		s.busyOthers++
		return s.start(&s.others), 0
	}
	if len(s.waiting) > 0 {
		return nil, time.Until(s.waiting[0].until)
	}
	return nil, time.Hour
}

func (s *lines) start(queue *[]*line) *line {
	l := (*queue)[0]
	(*queue)[0] = nil
	*queue = (*queue)[1:]
	l.state = served
	l.fromLive = queue == &s.live
	s.busy++
	return l
}

// done says when a line is to be served again.
func (s *lines) done(l *line, t turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	if !l.fromLive {
		s.busyOthers--
	}
	again, seen := l.again, l.seen
	l.again, l.seen = false, false
	l.alive, l.relaysTry = t.alive || seen, t.relayed
	switch {
	case t.empty && !again:
		delete(s.all, l.destination)
		s.remember(l.destination)
	case t.alive || seen || again && t.relayed:
		s.ready(l)
	default:
		l.state, l.until = waits, time.Now().Add(t.retryAfter)
		heap.Push(&s.waiting, l)
	}
	s.tell()
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

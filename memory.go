package relay

import (
	"container/list"
	"context"
	"net/http"
	"sync"
	"time"
)

const (
	// grace is how long a transfer may take before it can be cut off for
	// others, patience how long the others wait for that to be done.
	grace    = 3 * time.Second
	patience = time.Second

	// A quarter of a budget is kept for transfers that are no larger than this.
	small = 256 << 10

	// firstRead is the memory that a body gets before it has sent anything, and an
	// answer always, outside of the budget: little, so that connections that dribble
	// cost little.
	firstRead = 2 << 10

	// slowFactor is about how much memory, in sizes of the body, it takes to
	// check a signature with fclient.
	slowFactor = 12
)

// The memory that transfers share: in is for bodies of requests, out for answers. It
// alone cuts transfers off.
type memory struct{ in, out *budget }

func newMemory(bytes int64) memory { return memory{newBudget(bytes), newBudget(bytes)} }

// takeIn begins the transfer of a request's body. To cut it off, its next read is
// made to fail, where the server can do that.
func (m memory) takeIn(w http.ResponseWriter) *share {
	c := http.NewResponseController(w)
	return m.in.share(func() bool { return c.SetReadDeadline(longAgo) == nil })
}

// handOut begins the transfer of an answer, likewise.
func (m memory) handOut(w http.ResponseWriter) *share {
	c := http.NewResponseController(w)
	return m.out.share(func() bool { return c.SetWriteDeadline(longAgo) == nil })
}

var longAgo = time.Unix(1, 0)

// cutAll cuts off all transfers that can be, and those that begin later.
func (m memory) cutAll() {
	m.in.cutAll()
	m.out.cutAll()
}

// A budget is memory that transfers share. When there is none left, the one
// that has gone on for longest is cut off, if it has had its grace. So those
// that are slow, or do it on purpose, don't stop the others for good. A
// transfer that is alone gets what it needs, whatever the budget is.
type budget struct {
	total, reserve  int64
	grace, patience time.Duration

	mu      sync.Mutex
	held    int64
	shares  list.List     // of *share, the oldest first
	over    bool          // transfers that begin are cut off, too
	changed chan struct{} // closed when something was given back
}

func newBudget(bytes int64) *budget {
	return &budget{total: bytes, reserve: bytes / 4, grace: grace, patience: patience, changed: make(chan struct{})}
}

// A share is what one transfer holds.
type share struct {
	budget  *budget
	element *list.Element
	since   time.Time
	held    int64
	cut     func() bool // ends the transfer, if it can; nil while it must not be
	isCut   bool
}

// share begins a transfer, which holds nothing yet. It must be released. Cut
// must not call back.
func (b *budget) share(cut func() bool) *share {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &share{budget: b, since: time.Now(), cut: cut}
	s.element = b.shares.PushBack(s)
	if b.over {
		s.end()
	}
	return s
}

// set makes the share hold that many bytes and reports whether there is room.
// If there isn't, it cuts another off and, if it may, waits a moment for it.
func (s *share) set(bytes int64, mayWait bool) bool {
	var timeout <-chan time.Time // made when there is something to wait for
	for {
		s.budget.mu.Lock()
		done, hopeless := s.trySet(bytes)
		changed := s.budget.changed
		s.budget.mu.Unlock()
		if done || hopeless || !mayWait {
			return done
		}
		if timeout == nil {
			timeout = time.After(s.budget.patience)
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		}
	}
}

func (s *share) trySet(bytes int64) (done, hopeless bool) {
	b := s.budget
	limit := b.total
	if bytes > small {
		limit -= b.reserve
	}
	others := b.held - s.held
	if others+bytes > limit && others > 0 && bytes > s.held {
		return false, !b.cutOldest(s)
	}
	b.hold(s, bytes)
	return true, false
}

func (b *budget) hold(s *share, bytes int64) {
	less := bytes < s.held
	b.held += bytes - s.held
	s.held = bytes
	if less {
		close(b.changed)
		b.changed = make(chan struct{})
	}
}

// cutOldest cuts off the oldest transfer that can be, and reports whether one
// is on its way to its end. What that holds is free when it is released.
func (b *budget) cutOldest(except *share) bool {
	for e := b.shares.Front(); e != nil; e = e.Next() {
		s := e.Value.(*share)
		if s == except || s.held == 0 {
			continue
		}
		if s.isCut {
			return true
		}
		if time.Since(s.since) < b.grace {
			return false
		}
		if s.end() {
			return true
		}
	}
	return false
}

// end cuts the transfer off, if it can be.
func (s *share) end() bool {
	s.isCut = s.isCut || s.cut != nil && s.cut()
	return s.isCut
}

func (b *budget) cutAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	for e := b.shares.Front(); e != nil; e = e.Next() {
		e.Value.(*share).end()
	}
}

// checking runs the check of a signature over that much. While it waits for
// somebody else's keys, the request can be cut off for others. Quick checks, and
// those of small bodies, take no memory to speak of.
func (s *share) checking(ctx context.Context, size int64, quick func() bool, check func(context.Context) error) error {
	if size > small && !quick() {
		if !s.set(slowFactor*size, true) {
			return tooMuchInFlight()
		}
		defer s.set(size, false)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.setCut(func() bool { cancel(); return true })
	err := check(ctx)
	if s.setCut(nil) {
		return tooMuchInFlight()
	}
	return err
}

// setCut says how the transfer can be cut off from now on (nil: not at all),
// and reports whether it was cut off before.
func (s *share) setCut(cut func() bool) (wasCut bool) {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.cut = cut
	return s.isCut
}

// release ends the transfer and gives back what it holds. It may be called
// more than once.
func (s *share) release() {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if s.element != nil {
		s.budget.hold(s, 0)
		s.budget.shares.Remove(s.element)
		s.element = nil
	}
}

package relay

import (
	"container/list"
	"sync"
	"time"
)

// grace is how long a transfer may take before it can be cut off for others.
const grace = 3 * time.Second

// A budget is memory that transfers share. When there is none left, the
// transfer that has held some for longest is cut off, if it has had its grace:
// so those that are slow, or do it on purpose, never stop those that are not.
type budget struct {
	grace time.Duration

	mu      sync.Mutex
	free    int64
	holders list.List // of *share, the oldest first
}

func newBudget(bytes int64) *budget { return &budget{grace: grace, free: bytes} }

// A share is what one transfer holds.
type share struct {
	budget  *budget
	held    int64
	since   time.Time
	element *list.Element
	cut     func() bool // ends the transfer, if it can; nil while it must not be
	isCut   bool
}

// share makes a share that holds nothing yet.
func (b *budget) share(cut func() bool) *share { return &share{budget: b, cut: cut} }

// grow makes the share hold that many bytes, and reports whether there was
// room. The share's cut must not call back.
func (s *share) grow(bytes int64) bool {
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	more := bytes - s.held
	for b.free < more {
		if !b.cutOldest(s) {
			return false
		}
	}
	b.free -= more
	s.held = bytes
	if s.element == nil {
		s.since, s.element = time.Now(), b.holders.PushBack(s)
	}
	return true
}

// cutOldest cuts off the oldest transfer that can be, and takes its memory.
func (b *budget) cutOldest(except *share) bool {
	for e := b.holders.Front(); e != nil; e = e.Next() {
		s := e.Value.(*share)
		if time.Since(s.since) < b.grace {
			return false
		}
		if s != except && s.cut != nil && s.cut() {
			s.isCut = true
			b.drop(s)
			return true
		}
	}
	return false
}

func (b *budget) drop(s *share) {
	if s.element == nil {
		return
	}
	b.holders.Remove(s.element)
	b.free += s.held
	s.element, s.held, s.cut = nil, 0, nil
}

// setCut says how the transfer can be cut off from now on; nil: not at all.
func (s *share) setCut(cut func() bool) {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.cut = cut
}

// release gives back what the share holds. It may be called more than once.
func (s *share) release() {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.budget.drop(s)
}

// wasCut reports whether the transfer was cut off for others.
func (s *share) wasCut() bool {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.isCut
}

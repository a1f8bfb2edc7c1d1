// Package copies bounds how many transactions a store remembers that it doesn't have any
// more, to recognise copies of them.
package copies

import (
	"hash/maphash"
	"math"
	"strconv"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/internal/heap"
	"github.com/matrixrelay/relay/store"
)

// maxNames is how many origins are told apart. When there are more, the others share as
// many shares: a name costs nothing, so names must not cost memory without end.
const maxNames = 4096

// Limits bound how many are remembered: of all origins, and of each.
type Limits struct{ All, OfOrigin int64 }

// LimitsOf are the limits with these options: the default for zero, and of an origin a
// sixteenth of all; none for less.
func LimitsOf(all, ofOrigin int64) Limits {
	defaults.Bounds(&all, store.DefaultMaxCopies, math.MaxInt64)
	defaults.Bounds(&ofOrigin, max(all/16, 1), math.MaxInt64)
	return Limits{all, ofOrigin}
}

// AreAny reports whether there is a limit at all.
func (l Limits) AreAny() bool { return min(l.All, l.OfOrigin) < math.MaxInt64/16 }

// A Ledger lists the transactions that are remembered, as the store names them, by origin
// and in the order in which they are forgotten. It isn't safe for concurrent use. Make one
// with New.
type Ledger[C any] struct {
	limits  Limits
	seed    maphash.Seed
	count   int64
	soonest int64 // nothing is over before
	shares  map[spec.ServerName]*share[C]
	most    heap.Heap[*share[C]] // the largest is first
}

// A share has those of one origin, the oldest first.
type share[C any] struct {
	name   spec.ServerName
	copies []copyOf[C]
	index  int
}

type copyOf[C any] struct {
	it    C
	until int64
}

// Before implements heap.Item.
func (s *share[C]) Before(other *share[C]) bool { return len(s.copies) > len(other.copies) }

// Index implements heap.Item.
func (s *share[C]) Index() *int { return &s.index }

// New returns an empty Ledger.
func New[C any](limits Limits) *Ledger[C] {
	return &Ledger[C]{limits: limits, seed: maphash.MakeSeed(), shares: make(map[spec.ServerName]*share[C])}
}

// Count is how many are listed.
func (l *Ledger[C]) Count() int64 { return l.count }

// Add lists one that is remembered until then. That isn't before the time of any that was
// listed earlier.
func (l *Ledger[C]) Add(origin spec.ServerName, it C, until int64) {
	s := l.share(origin)
	s.copies = append(s.copies, copyOf[C]{it, until})
	if l.count++; l.count == 1 || until < l.soonest {
		l.soonest = until
	}
	if len(s.copies) == 1 {
		l.shares[s.name] = s
		l.most.Push(s)
		return
	}
	l.most.Fix(s)
}

// share returns the share of an origin, or of several origins if there are too many.
func (l *Ledger[C]) share(origin spec.ServerName) *share[C] {
	if s := l.shares[origin]; s != nil {
		return s
	}
	if len(l.shares) >= maxNames {
		origin = spec.ServerName("\xff" + strconv.FormatUint(maphash.String(l.seed, string(origin))%maxNames, 16))
		if s := l.shares[origin]; s != nil {
			return s
		}
	}
	return &share[C]{name: origin}
}

// Expire drops those whose time is over, and tells forget of each.
func (l *Ledger[C]) Expire(now int64, forget func(C)) {
	if l.count == 0 || now < l.soonest {
		return
	}
	l.soonest = math.MaxInt64
	for _, s := range l.shares {
		for len(s.copies) > 0 && s.copies[0].until <= now {
			forget(l.takeOldest(s))
		}
		if len(s.copies) > 0 {
			l.soonest = min(l.soonest, s.copies[0].until)
		}
	}
}

// Over says whether too many are remembered, and which must be forgotten next: the oldest
// of the origin that has most, or of those that aren't listed, if these are more. One that is
// listed is dropped and returned.
func (l *Ledger[C]) Over(unlisted int64) (it C, isListed, isOver bool) {
	largest := int64(0)
	if len(l.most) > 0 {
		largest = int64(len(l.most[0].copies))
	}
	isOver = l.count+unlisted > l.limits.All
	if largest > l.limits.OfOrigin || isOver && largest > 0 && largest >= unlisted {
		return l.takeOldest(l.most[0]), true, true
	}
	return it, false, isOver
}

func (l *Ledger[C]) takeOldest(s *share[C]) C {
	oldest := s.copies[0]
	s.copies[0] = copyOf[C]{}
	s.copies = s.copies[1:]
	l.count--
	if len(s.copies) == 0 {
		l.most.Remove(s)
		delete(l.shares, s.name)
	} else {
		l.most.Fix(s)
	}
	return oldest.it
}

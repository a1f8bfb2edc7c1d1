package relay

import "slices"

// A line has the transfers that wait for memory. A budget has two, since the small ones
// have room that the large ones don't.
type line struct{ shares []*share }

// lineOf is the line for a transfer, as much as it wants.
func (b *budget) lineOf(s *share) *line {
	if s.wants > s.most {
		return &b.large
	}
	return &b.small
}

func (l *line) enter(s *share) { l.shares = append(l.shares, s) }

func (l *line) leave(s *share) {
	i := slices.Index(l.shares, s)
	l.shares = slices.Delete(l.shares, i, i+1)
	s.wants = 0
	if s.left != nil {
		close(s.left)
		s.left = nil
	}
}

// first is the transfer whose turn it is, nil if there is none: the one that is alone,
// which nobody waits for, else that whose party would hold least. Otherwise those of a
// party that holds much would take the memory that is given back, again and again. One whose
// party has its part waits for the party's others.
func (l *line) first(b *budget) (first *share) {
	var least int64
	for _, s := range l.shares {
		if s.held == b.held {
			return s
		}
		if s.isOverPart() {
			continue
		}
		if would := s.would(); first == nil || would < least {
			first, least = s, would
		}
	}
	return first
}

// serve gives those in a line the memory that they want, in turn, as long as there is room. One is
// cut off for the next, if it may be.
func (b *budget) serve(l *line) {
	for s := l.first(b); s != nil; s = l.first(b) {
		if !s.fits(s.wants) {
			b.makeRoom(s)
			return
		}
		b.hold(s, s.wants)
		l.leave(s)
	}
}

func (b *budget) serveAll() {
	b.serve(&b.small)
	b.serve(&b.large)
}

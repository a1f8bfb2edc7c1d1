package relay

import (
	"cmp"
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/address"
)

const (
	// grace is how long a transfer may take before it can be cut off for others that
	// hold as much, patience how long the others wait for room.
	grace    = 3 * time.Second
	patience = time.Second

	// A quarter of a budget is kept for transfers that are no larger than this.
	small = 256 << 10
)

// A budget is memory that transfers share. When there is none left, those that need
// more wait in line, and one is cut off for them: of the address whose transfers hold
// most, and there of the name, the oldest. So those that are slow, or do it on purpose,
// stop nobody at another address, and don't stop the others for good. A small transfer
// is never cut off for a large one. A transfer that is alone gets as much as it needs,
// even if that is more than the budget.
type budget struct {
	total, forSmall int64
	grace, patience time.Duration

	mu          sync.Mutex
	held        int64
	heldBySmall int64 // of it
	parties     map[address.From]*party
	bySite      map[netip.Prefix]int64
	over        bool          // transfers that begin are cut off, too
	changed     chan struct{} // closed when something was given back
}

// A party is the transfers of one address.
type party struct {
	from   address.From
	held   int64
	shares list.List // of *share, the oldest first
}

func newBudget(bytes int64) *budget {
	return &budget{
		total: bytes, forSmall: bytes / 4, grace: grace, patience: patience,
		parties: make(map[address.From]*party), bySite: make(map[netip.Prefix]int64), changed: make(chan struct{}),
	}
}

// A share is the memory that one transfer holds.
type share struct {
	budget  *budget
	party   *party
	by      holder
	element *list.Element
	since   time.Time
	held    int64
	wants   int64       // while it waits in line
	cut     func() bool // ends the transfer, if it can; nil while it must not be
	isCut   bool
}

// share begins a transfer, which holds nothing yet. It must be released. Cut
// must not call back.
func (b *budget) share(by holder, cut func() bool) *share {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.parties[by.from]
	if p == nil {
		p = &party{from: by.from}
		b.parties[by.from] = p
	}
	s := &share{budget: b, party: p, by: by, since: time.Now(), cut: cut}
	s.element = p.shares.PushBack(s)
	if b.over {
		s.end()
	}
	return s
}

// set makes the share hold that many bytes and reports whether there is room. If
// there isn't, another is cut off, and if the share may, it waits in line.
func (s *share) set(bytes int64, mayWait bool) bool {
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.trySet(bytes, mayWait) || !mayWait {
		return s.held == bytes
	}
	timer := time.NewTimer(b.patience)
	defer timer.Stop()
	s.wants = bytes
	defer func() { s.wants = 0 }()
	for !s.isCut && s.held != bytes {
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
			b.mu.Lock()
		case <-timer.C:
			b.mu.Lock()
			return false
		}
		s.trySet(bytes, mayWait)
	}
	return s.held == bytes
}

func (s *share) trySet(bytes int64, mayWait bool) bool {
	b := s.budget
	if bytes > s.held && b.held > s.held && (s.isCut || !s.fits(bytes)) {
		b.makeRoom(s, bytes, mayWait)
		return false
	}
	b.hold(s, bytes)
	return true
}

// fits reports whether there is room beside others. The part that is kept for small
// transfers is theirs also while a large one that was alone holds more than there is.
func (s *share) fits(bytes int64) bool {
	b := s.budget
	others := b.held - s.held
	if bytes > small {
		return others+bytes <= b.total-b.forSmall && !b.othersFirst(s.party)
	}
	return others+bytes <= b.total || b.heldBySmall-s.heldIfSmall()+bytes <= b.forSmall
}

// heldIfSmall is the memory that the share holds if that is little, else 0.
func (s *share) heldIfSmall() int64 {
	if s.held > small {
		return 0
	}
	return s.held
}

// othersFirst reports whether somebody waits in line whose party would still hold no
// more than this one does.
func (b *budget) othersFirst(than *party) bool {
	for _, p := range b.parties {
		for e := p.shares.Front(); e != nil && p != than; e = e.Next() {
			if s := e.Value.(*share); s.wants > 0 && p.held-s.held+s.wants <= than.held {
				return true
			}
		}
	}
	return false
}

func (b *budget) hold(s *share, bytes int64) {
	less := bytes < s.held
	b.held += bytes - s.held
	s.party.held += bytes - s.held
	site := s.by.from.Site
	if b.bySite[site] += bytes - s.held; b.bySite[site] == 0 {
		delete(b.bySite, site)
	}
	b.heldBySmall -= s.heldIfSmall()
	s.held = bytes
	b.heldBySmall += s.heldIfSmall()
	if less {
		b.wakeAll()
	}
}

func (b *budget) wakeAll() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// makeRoom cuts one transfer off for a share, unless one is on its way to its end
// already. The memory of that one is free when it is released. A party that holds more
// than the share's would then is cut without grace, if the share waits for that.
func (b *budget) makeRoom(s *share, bytes int64, mayWait bool) {
	parties := make([]*party, 0, len(b.parties))
	for _, p := range b.parties {
		parties = append(parties, p)
	}
	slices.SortFunc(parties, func(one, other *party) int {
		return cmp.Or(cmp.Compare(b.weight(other), b.weight(one)), cmp.Compare(other.held, one.held))
	})
	would := max(s.party.held-s.held+bytes, b.bySite[s.by.from.Site]/address.Wide)
	for _, p := range parties {
		atOnce := mayWait && p != s.party && b.weight(p) > would
		if p.cutFor(s, bytes, atOnce) {
			return
		}
	}
}

// weight is the memory of a party, or its part of the memory of its site, if that is more.
func (b *budget) weight(p *party) int64 { return max(p.held, b.bySite[p.from.Site]/address.Wide) }

// cutFor cuts off a transfer, of the name that holds most the oldest, and reports
// whether one is on its way to its end.
func (p *party) cutFor(s *share, bytes int64, atOnce bool) bool {
	held := make(map[spec.ServerName]int64)
	var others []*share
	for e := p.shares.Front(); e != nil; e = e.Next() {
		other := e.Value.(*share)
		isSpared := other.held == 0 || other.held <= small && bytes > small
		if other == s || isSpared {
			continue
		}
		if other.isCut {
			return true
		}
		if atOnce || time.Since(other.since) >= s.budget.grace {
			others = append(others, other)
		}
		held[other.by.name] += other.held
	}
	slices.SortStableFunc(others, func(a, b *share) int { return cmp.Compare(held[b.by.name], held[a.by.name]) })
	return slices.ContainsFunc(others, (*share).end)
}

// end cuts the transfer off, if it can be.
func (s *share) end() bool {
	if !s.isCut && s.cut != nil && s.cut() {
		s.isCut = true
		s.budget.wakeAll() // it may wait itself
	}
	return s.isCut
}

func (b *budget) cutAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	for _, p := range b.parties {
		for e := p.shares.Front(); e != nil; e = e.Next() {
			e.Value.(*share).end()
		}
	}
}

// setCut says how the transfer can be cut off from now on (nil: not at all),
// and reports whether it was cut off before.
func (s *share) setCut(cut func() bool) (wasCut bool) {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.cut = cut
	return s.isCut
}

// release ends the transfer and gives back its memory. It may be called more
// than once.
func (s *share) release() {
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.element == nil {
		return
	}
	b.hold(s, 0)
	s.party.shares.Remove(s.element)
	s.element = nil
	if s.party.shares.Len() == 0 {
		delete(b.parties, s.by.from)
	}
}

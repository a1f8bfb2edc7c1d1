package relay

import (
	"container/list"
	"net/netip"
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

	// modest is how much the small transfers of an address may hold, and of a site
	// address.Wide times as much, before they are cut off for large ones, too.
	modest = 12 * small
)

// A budget is memory that transfers share. When there is none left, those that need
// more wait in line, and one is cut off for them: of the address whose transfers hold
// most, and there of the name, the oldest. So those that are slow, or do it on purpose,
// stop nobody at another address, and don't stop the others for good. A small transfer
// is never cut off for a large one, unless its address has many. A transfer that is alone gets as much as it needs,
// even if that is more than the budget.
type budget struct {
	total, forSmall int64
	ofParty         int64 // of large transfers, unless the party has one alone; 0: no bound
	grace, patience time.Duration

	mu sync.Mutex
	sum
	parties map[address.From]*party
	sites   map[netip.Prefix]*site
	large   line // those that wait
	small   line
	over    bool // transfers that begin are cut off, too
}

// A party is the transfers of one address.
type party struct {
	sum
	site   *site
	isSite bool      // many parties that can't be told apart
	shares list.List // of *share, the oldest first
}

// A site has so many parties, which hold so much together.
type site struct {
	sum
	parties int
}

// A sum is the memory that transfers hold together, and how much of it small ones do.
type sum struct{ held, heldBySmall int64 }

func newBudget(bytes int64) *budget {
	return &budget{
		total: bytes, forSmall: bytes / 4, grace: grace, patience: patience,
		parties: make(map[address.From]*party), sites: make(map[netip.Prefix]*site),
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
	most    int64       // that it holds while it is small: more while its body is checked
	cut     func() bool // ends the transfer, if it can; nil while it must not be
	isCut   bool

	// While it stands in line:
	wants   int64
	mayWait bool
	left    chan struct{} // closed when it has left the line; nil if it doesn't wait for that
}

// share begins a transfer, which holds nothing yet. It must be released. Cut
// must not call back.
func (b *budget) share(by holder, cut func() bool) *share {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.party(by.from)
	s := &share{budget: b, party: p, by: by, since: time.Now(), most: small, cut: cut}
	s.element = p.shares.PushBack(s)
	if b.over {
		s.end()
	}
	return s
}

func (b *budget) party(from address.From) *party {
	if p := b.parties[from]; p != nil {
		return p
	}
	at := b.sites[from.Site]
	if at == nil {
		at = new(site)
		b.sites[from.Site] = at
	}
	at.parties++
	p := &party{site: at, isSite: from.Shared}
	b.parties[from] = p
	return p
}

// set makes the share hold that many bytes and reports whether there is room. If
// there isn't, another is cut off, and if the share may, it waits in line.
func (s *share) set(bytes int64, mayWait bool) bool {
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if bytes <= s.held {
		b.hold(s, bytes)
		b.serveAll()
		return true
	}
	if s.isCut {
		return false
	}
	s.wants, s.mayWait = bytes, mayWait
	line := b.lineOf(s)
	line.enter(s)
	if b.serve(line); mayWait && s.wants > 0 {
		s.wait()
	}
	if s.wants > 0 {
		line.leave(s)
		b.serve(line) // it may have been before others that need less
	}
	return s.held == bytes
}

// wait waits until the share has left the line, but not for ever.
func (s *share) wait() {
	timer := time.NewTimer(s.budget.patience)
	defer timer.Stop()
	left := make(chan struct{})
	s.left = left
	s.budget.mu.Unlock()
	defer s.budget.mu.Lock()
	select {
	case <-left:
	case <-timer.C:
	}
}

// fits reports whether there is room beside others. The part that is kept for small
// transfers is theirs also while a large one that was alone holds more than there is.
func (s *share) fits(bytes int64) bool {
	b := s.budget
	others := b.held - s.held
	switch {
	case others == 0:
		return true
	case bytes > s.most:
		return others+bytes <= b.total-b.forSmall
	}
	return others+bytes <= b.total || b.heldBySmall-s.heldIfSmall()+bytes <= b.forSmall
}

// isOverPart reports whether the share's party would have more than its part of large
// transfers. Memory that was given back is free only when the garbage collector has come
// by, so a party that fills all of it again and again would take several times as much.
func (s *share) isOverPart() bool {
	p, b := s.party, s.budget
	others := p.held - p.heldBySmall
	if s.held > s.most {
		others -= s.held
	}
	return b.ofParty > 0 && !p.isSite && s.wants > s.most && others > 0 && others+s.wants > b.ofParty
}

// heldIfSmall is the memory that the share holds if that is little, else 0.
func (s *share) heldIfSmall() int64 {
	if s.held > s.most {
		return 0
	}
	return s.held
}

// hold has a share hold so much. If that is less than it did, others must be served.
func (b *budget) hold(s *share, bytes int64) {
	sums := [...]*sum{&b.sum, &s.party.sum, &s.party.site.sum}
	for _, of := range sums {
		of.held += bytes - s.held
		of.heldBySmall -= s.heldIfSmall()
	}
	s.held = bytes
	for _, of := range sums {
		of.heldBySmall += s.heldIfSmall()
	}
}

// weight is the memory of a party, or its part of the memory of its site, if that is more.
func (p *party) weight() int64 { return max(p.held, p.site.held/address.Wide) }

// would is the weight of the share's party, if it had the memory that it wants.
func (s *share) would() int64 {
	return max(s.party.held-s.held+s.wants, s.party.site.held/address.Wide)
}

// makeRoom cuts one transfer off for another, unless one is on its way to its end
// already. Its memory is free when it is released.
func (b *budget) makeRoom(s *share) {
	for other := b.victim(s); other != nil && !other.end(); other = b.victim(s) {
		other.cut = nil // it can't be, so it isn't found again
	}
}

// victim is the transfer that is cut off first for another, or is on its way to its end
// already, nil if there is none: of the party that holds most of those that have one. One
// that holds less than the other transfers of the share's party is left alone.
func (b *budget) victim(s *share) *share {
	now, would, others := time.Now(), s.would(), s.party.held-s.held
	var first *share
	var most int64
	for _, p := range b.parties {
		weight := p.weight()
		if p.held == 0 || weight < others || weight < most || first != nil && weight == most && p.held <= first.party.held {
			continue
		}
		before := now.Add(-b.grace)
		if s.mayWait && p != s.party && weight > would {
			before = now // it holds more than the other would
		}
		if found := p.victim(s, before); found != nil {
			first, most = found, weight
		}
	}
	return first
}

// victim is the transfer of the party that is cut off first for another, if it began by
// then: the oldest of the name that holds most.
func (p *party) victim(s *share, before time.Time) (first *share) {
	var held map[spec.ServerName]int64
	for e := p.shares.Front(); e != nil; e = e.Next() {
		other := e.Value.(*share)
		if !other.yieldsTo(s) {
			continue
		}
		if other.isCut {
			return other
		}
		if other.cut == nil || other.since.After(before) {
			continue
		}
		if held == nil {
			held = p.heldByName()
		}
		if first == nil || held[other.by.name] > held[first.by.name] {
			first = other
		}
	}
	return first
}

func (p *party) heldByName() map[spec.ServerName]int64 {
	held := make(map[spec.ServerName]int64)
	for e := p.shares.Front(); e != nil; e = e.Next() {
		s := e.Value.(*share)
		held[s.by.name] += s.held
	}
	return held
}

// yieldsTo reports whether the share is one that may be cut off for another.
func (s *share) yieldsTo(other *share) bool {
	isSpared := s.held <= s.most && other.wants > other.most && s.party.isModest()
	return s != other && s.held > 0 && !isSpared
}

// isModest reports whether the small transfers of the party are so few that an honest one
// could have them.
func (p *party) isModest() bool {
	return (p.isSite || p.heldBySmall <= modest) && p.site.heldBySmall <= address.Wide*modest
}

// end cuts the transfer off, if it can be.
func (s *share) end() bool {
	if !s.isCut && s.cut != nil && s.cut() {
		s.isCut = true
		if s.wants > 0 {
			s.budget.lineOf(s).leave(s)
		}
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
		if s.party.site.parties--; s.party.site.parties == 0 {
			delete(b.sites, s.by.from.Site)
		}
	}
	b.serveAll()
}

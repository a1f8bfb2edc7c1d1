// Package crowd keeps holders of places by the address and the name that they belong to,
// and gives places of those that have most to others.
package crowd

import (
	"container/heap"
	"container/list"
	"net/netip"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/address"
)

const (
	addressPart, sharedPart = 32, 2

	// least is how many places an address may have, however few there are.
	least = 16
)

// Part says into how many parts the places are divided, of which an address may take one:
// one in 32 of all, or half where many parties can't be told apart.
func Part(from address.From) int {
	if from.Shared {
		return sharedPart
	}
	return addressPart
}

// A Crowd has the holders of places. It isn't safe for concurrent use. Its methods take
// hardly longer the more holders there are.
type Crowd struct {
	places, each int
	part         func(address.From) int
	count        int
	addresses    map[address.From]*fromOne
	sites        map[netip.Prefix]*atSite
	byWeight     most[*atSite]
}

// atSite are those of all addresses at one site. Its place's count is its weight: the
// places of its address with most, or a sixteenth of all its places if that is more.
type atSite struct {
	place
	count   int
	byCount most[*fromOne]
}

// fromOne are those of one address.
type fromOne struct {
	place
	from    address.From
	site    *atSite
	names   map[spec.ServerName]*ofName
	byCount most[*ofName]
}

// ofName are those of one name at an address, the oldest first.
type ofName struct {
	place
	address *fromOne
	name    spec.ServerName
	members list.List // of *Member
}

// A Member has a place.
type Member struct {
	of      *ofName
	element *list.Element // nil when it has left
	end     func()
}

// New returns a Crowd with so many places, at least one, and so many for each name at an
// address. Part is Part, or says otherwise for some.
func New(places, each int, part func(address.From) int) *Crowd {
	return &Crowd{places: max(places, 1), each: each, part: part, addresses: make(map[address.From]*fromOne), sites: make(map[netip.Prefix]*atSite)}
}

// Join gives a place to something. End is how it is told later to give it up, which it
// has done by then; it mustn't call back. If there is no place, one is taken from the
// oldest: of the same name or address where these have as many as they may, else of the
// name that has most, at the address that has most. Where the addresses of one site have
// more than sixteen times as many together, it is one of these.
func (c *Crowd) Join(from address.From, name spec.ServerName, end func()) *Member {
	m := &Member{end: end}
	c.join(m, from, name)
	return m
}

func (c *Crowd) join(m *Member, from address.From, name spec.ServerName) {
	c.makeRoom(from, name)
	a := c.address(from)
	n := a.names[name]
	if n == nil {
		n = &ofName{address: a, name: name}
		a.names[name] = n
	}
	m.of = n
	m.element = n.members.PushBack(m)
	c.add(n, 1)
}

// Move has a member's place belong to another address and name, as if it had just
// joined there. It changes nothing if the place was taken away.
func (c *Crowd) Move(m *Member, from address.From, name spec.ServerName) {
	if m.element == nil {
		return
	}
	c.Leave(m)
	c.join(m, from, name)
}

func (c *Crowd) address(from address.From) *fromOne {
	if a := c.addresses[from]; a != nil {
		return a
	}
	s := c.sites[from.Site]
	if s == nil {
		s = new(atSite)
		c.sites[from.Site] = s
	}
	a := &fromOne{from: from, site: s, names: make(map[spec.ServerName]*ofName)}
	c.addresses[from] = a
	return a
}

func (c *Crowd) makeRoom(from address.From, name spec.ServerName) {
	a := c.addresses[from]
	switch {
	case a != nil && a.names[name] != nil && a.names[name].count >= c.each:
		c.endOldest(a.names[name])
	case a != nil && a.count >= min(c.places, max(c.places/c.part(from), least)):
		c.endOldest(a.byCount.items[0])
	case c.count >= c.places:
		c.endOldest(c.byWeight.items[0].byCount.items[0].byCount.items[0])
	}
}

func (c *Crowd) endOldest(n *ofName) {
	m := n.members.Front().Value.(*Member)
	m.end()
	c.Leave(m)
}

// Leave gives up a place, if it wasn't taken already.
func (c *Crowd) Leave(m *Member) {
	if m.element == nil {
		return
	}
	n := m.of
	n.members.Remove(m.element)
	m.element = nil
	c.add(n, -1)
	if n.count == 0 {
		delete(n.address.names, n.name)
	}
	if n.address.count == 0 {
		delete(c.addresses, n.address.from)
	}
	if n.address.site.count == 0 {
		delete(c.sites, n.address.from.Site)
	}
}

func (c *Crowd) add(n *ofName, more int) {
	a, s := n.address, n.address.site
	c.count += more
	s.count += more
	a.byCount.change(n, &n.place, more)
	s.byCount.change(a, &a.place, more)
	c.byWeight.change(s, &s.place, s.weight()-s.place.count)
}

func (s *atSite) weight() int {
	if s.count == 0 {
		return 0
	}
	return max(s.byCount.items[0].count, s.count/address.Wide)
}

// Count is how many places are taken.
func (c *Crowd) Count() int { return c.count }

// EndAll tells all to give up their places, which they have until they leave.
func (c *Crowd) EndAll() {
	for _, a := range c.addresses {
		for _, n := range a.byCount.items {
			for e := n.members.Front(); e != nil; e = e.Next() {
				e.Value.(*Member).end()
			}
		}
	}
}

// A place is where something stands among others of its kind.
type place struct{ count, index int }

func (p *place) at() *place { return p }

// most is a heap: the first has most.
type most[T interface{ at() *place }] struct{ items []T }

// change changes how many a thing has, which is in the heap while that isn't 0.
func (m *most[T]) change(item T, p *place, more int) {
	if p.count == 0 {
		heap.Push(m, item)
	}
	p.count += more
	if p.count == 0 {
		heap.Remove(m, p.index)
		return
	}
	heap.Fix(m, p.index)
}

// Len implements heap.Interface, as the others do.
func (m *most[T]) Len() int           { return len(m.items) }
func (m *most[T]) Less(i, j int) bool { return m.items[i].at().count > m.items[j].at().count }
func (m *most[T]) Swap(i, j int) {
	m.items[i], m.items[j] = m.items[j], m.items[i]
	m.items[i].at().index, m.items[j].at().index = i, j
}
func (m *most[T]) Push(x any) {
	item := x.(T)
	item.at().index = len(m.items)
	m.items = append(m.items, item)
}
func (m *most[T]) Pop() any {
	last := m.items[len(m.items)-1]
	m.items = slices.Delete(m.items, len(m.items)-1, len(m.items))
	return last
}

package relay

import (
	"container/heap"
	"container/list"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/address"
)

// A crowd is the requests that wait, by the address that they come from and by name. It
// knows whose are most, however many there are.
type crowd struct {
	count     int
	addresses map[address.From]*fromOne
	byCount   most[*fromOne]
}

// fromOne is those of one address.
type fromOne struct {
	place
	from    address.From
	names   map[spec.ServerName]*ofName
	byCount most[*ofName]
}

// ofName is those of one name at an address, the oldest first.
type ofName struct {
	place
	address *fromOne
	name    spec.ServerName
	waiting list.List // of *waiting
}

// A waiting is a request that waits.
type waiting struct {
	of      *ofName
	element *list.Element // nil when it has left
	end     func()
}

func newCrowd() *crowd { return &crowd{addresses: make(map[address.From]*fromOne)} }

// join adds a request; end is how it is told to go. It mustn't call back.
func (c *crowd) join(from address.From, name spec.ServerName, end func()) *waiting {
	a := c.addresses[from]
	if a == nil {
		a = &fromOne{from: from, names: make(map[spec.ServerName]*ofName)}
		c.addresses[from] = a
	}
	n := a.names[name]
	if n == nil {
		n = &ofName{address: a, name: name}
		a.names[name] = n
	}
	w := &waiting{of: n, end: end}
	w.element = n.waiting.PushBack(w)
	c.add(n, 1)
	return w
}

// leave removes a request, if it is still there.
func (c *crowd) leave(w *waiting) {
	if w.element == nil {
		return
	}
	n := w.of
	n.waiting.Remove(w.element)
	w.element = nil
	c.add(n, -1)
	if n.count == 0 {
		delete(n.address.names, n.name)
	}
	if n.address.count == 0 {
		delete(c.addresses, n.address.from)
	}
}

func (c *crowd) add(n *ofName, more int) {
	c.count += more
	n.address.byCount.change(n, &n.place, more)
	c.byCount.change(n.address, &n.address.place, more)
}

// of is how many of a name at an address there are.
func (c *crowd) of(from address.From, name spec.ServerName) (atAddress, ofName int) {
	a := c.addresses[from]
	if a == nil {
		return 0, 0
	}
	if n := a.names[name]; n != nil {
		ofName = n.count
	}
	return a.count, ofName
}

// endMost ends the oldest of the name that has most, at the address that has most.
func (c *crowd) endMost() { c.endAt(c.byCount.items[0]) }

func (c *crowd) endAt(a *fromOne) { c.endOldest(a.byCount.items[0]) }

func (c *crowd) endOldest(n *ofName) {
	w := n.waiting.Front().Value.(*waiting)
	w.end()
	c.leave(w)
}

// all are all requests.
func (c *crowd) all() (all []*waiting) {
	for _, a := range c.byCount.items {
		for _, n := range a.byCount.items {
			for e := n.waiting.Front(); e != nil; e = e.Next() {
				all = append(all, e.Value.(*waiting))
			}
		}
	}
	return all
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

package jetstream

import (
	"errors"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

const (
	// removeStep bounds the messages of the entries that one batch removes.
	removeStep = 256

	// dropStep bounds the pages in which one batch looks for expired mail.
	dropStep = 64
)

// An ackJob acknowledges one step of entries; more says that there are others.
type ackJob struct {
	destination spec.ServerName
	id          int64
	removed     int
	more        bool
}

func (a *ackJob) run(b *batch) error {
	a.removed, a.more = 0, false // it may run again
	x, err := b.box(a.destination)
	if err != nil {
		return err
	}
	place := x.value.placeOf(a.id)
	m, _, err := b.meta(a.destination, x, place)
	if err != nil {
		return err
	}
	if m == nil || m.state == gone || x.value.idAt(place) != a.id {
		return b.sure(a.destination, x)
	}
	from := x.value.mark + 1
	upTo, removed, err := b.remove(a.destination, x, from, min(place, from+removeStep-1), func(*meta) bool { return true })
	a.removed, a.more = removed, upTo < place
	return err
}

// An expireJob looks at a step of the entries of a mailbox, and removes those
// whose time is over.
type expireJob struct {
	destination spec.ServerName
	looked      int64 // the place up to which earlier steps have looked
	soonest     int64 // that one of those expires

	// The result of a step: like looked and soonest after it, how many it has
	// removed, and whether there are others.
	upTo, soonestUpTo int64
	removed           int
	more              bool
}

func (e *expireJob) run(b *batch) error {
	e.soonestUpTo, e.removed, e.more = e.soonest, 0, false // it may run again
	x, err := b.box(e.destination)
	if err != nil {
		return err
	}
	from := max(e.looked, x.value.mark) + 1
	last := min(from-1+int64(min(dropStep, b.maxMessages/8)*pageSize), x.value.next()-1)
	upTo, removed, err := b.remove(e.destination, x, from, last, func(m *meta) bool {
		if !m.expired(b.now) && m.expires != 0 && m.state != gone && (e.soonestUpTo == 0 || m.expires < e.soonestUpTo) {
			e.soonestUpTo = m.expires
		}
		return m.expired(b.now)
	})
	e.upTo, e.removed, e.more = upTo, removed, upTo < x.value.next()-1
	if err == nil && !e.more && x.value.soonest != e.soonestUpTo {
		x.value.soonest, x.changed = e.soonestUpTo, true
	}
	return err
}

// remove looks at the entries of some places, removes those that are over, and
// forgets those at the beginning of the mailbox that are gone. UpTo is how far it
// came, as one batch has no room for all: a third of the batch is left for one large
// mail, and a third for the pages.
func (b *batch) remove(of spec.ServerName, x *record[box], from, to int64, over func(*meta) bool) (upTo int64, removed int, err error) {
	upTo, mark := from-1, x.value.mark
	missing := b.needMetas(of, x, from, to)
	for before, sent := b.size(), len(b.out); upTo < to && len(b.out)-sent < removeStep && b.size()-before < b.maxMessages/3; upTo++ {
		m, changed, err := b.meta(of, x, upTo+1)
		if err == nil && over(m) && m.state != gone {
			err = b.removeEntry(of, x, m, changed)
			removed++
		}
		switch {
		case errors.Is(err, errMissing): // and more may be
			missing = err
		case err != nil:
			return upTo, 0, err
		case m.state == gone && mark == upTo:
			mark++
		}
	}
	if missing != nil {
		return upTo, 0, missing
	}
	return upTo, removed, b.forget(of, x, mark)
}

// removeEntry takes away an entry that is live or set aside, and leaves the messages
// that recognise a copy. The messages of one that is set aside stay as they are: it's
// no use to write to messages that can't be read.
func (b *batch) removeEntry(of spec.ServerName, x *record[box], m *meta, changed *bool) error {
	share, err := b.share(of, m.origin)
	if err != nil {
		return err
	}
	aside := m.state == setAside
	m.state, *changed = gone, true
	if aside {
		x.value.aside, x.changed = max(0, x.value.aside-1), true
		return nil
	}
	b.count(of, x, share, -1, -m.size)
	b.keys[m.key] = struct{}{}
	b.bury(m)
	for part := range m.parts {
		b.vanish(b.subjects.part(m.key, part+1), 0)
	}
	return nil
}

// forget drops all entries up to a place, which must be gone, and the pages that
// list no others.
func (b *batch) forget(of spec.ServerName, r *record[box], mark int64) error {
	x := r.value
	if mark <= x.mark {
		return nil
	}
	for first := x.pageOf(x.mark + 1); first < x.base && first+pageSize-1 <= mark; first += pageSize {
		p, err := b.page(of, first)
		if err != nil {
			return err
		}
		*p.value, p.changed = nil, true
	}
	x.mark, r.changed = mark, true
	x.forgetJumps()
	if x.holdsNothing() {
		*x = newBox(x.nextID())
	}
	return nil
}

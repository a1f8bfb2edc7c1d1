package jetstream

import (
	"errors"
	"iter"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

const (
	// removeStep bounds the entries that one batch removes.
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
	looked, removed, err := b.remove(a.destination, x, places(from, min(place, from+removeStep-1)), func(*meta) bool { return true })
	a.removed, a.more = removed, from+looked <= place
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
	looked, removed, err := b.remove(e.destination, x, places(from, last), func(m *meta) bool {
		if !m.expired(b.now) && m.expires != 0 && (e.soonestUpTo == 0 || m.expires < e.soonestUpTo) {
			e.soonestUpTo = m.expires
		}
		return m.expired(b.now)
	})
	e.upTo, e.removed, e.more = from+looked-1, removed, from+looked < x.value.next()
	if err == nil && !e.more && x.value.soonest != e.soonestUpTo {
		x.value.soonest, x.changed = e.soonestUpTo, true
	}
	return err
}

// places are those from one to another.
func places(from, to int64) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for place := from; place <= to && yield(place); place++ {
		}
	}
}

// remove looks at the entries at some places, removes those that are over, and forgets
// the first of the mailbox that are gone. It looks at as many as one batch has room for:
// a third of the batch is left for one large mail, and a third for the pages.
func (b *batch) remove(of spec.ServerName, x *record[box], places iter.Seq[int64], over func(*meta) bool) (looked int64, removed int, err error) {
	missing, before, last := error(nil), b.size(), x.value.mark
	for place := range places {
		if b.size()-before >= b.maxMessages/3 {
			break
		}
		m, changed, err := b.meta(of, x, place)
		if err == nil && m != nil && m.state != gone && over(m) {
			err = b.removeEntry(of, x, m, changed)
			removed++
		}
		switch {
		case errors.Is(err, errMissing): // and more may be
			missing = err
		case err != nil:
			return 0, 0, err
		}
		looked, last = looked+1, max(last, place)
	}
	if missing != nil {
		return 0, 0, missing
	}
	return looked, removed, b.forgetGone(of, x, last)
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

// forgetGone forgets the entries at the beginning of a mailbox that are gone, of those up
// to a place: Next would have to pass over them each time.
func (b *batch) forgetGone(of spec.ServerName, x *record[box], to int64) error {
	mark := x.value.mark
	to = min(to, mark+dropStep*pageSize)
	// Mostly the first isn't gone, and then the pages behind it needn't be read.
	if m, _, err := b.meta(of, x, mark+1); err != nil || m == nil || m.state != gone {
		return err
	}
	if err := b.needMetas(of, x, mark+1, to); err != nil {
		return err
	}
	for ; mark < to; mark++ {
		m, _, err := b.meta(of, x, mark+1)
		if err != nil {
			return err
		}
		if m.state != gone {
			break
		}
	}
	return b.forget(of, x, mark)
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

package jetstream

import (
	"cmp"
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
	if x.value == nil {
		return b.sure(a.destination, x)
	}
	place := x.value.placeOf(a.id)
	if place > x.value.mark && place < x.value.base {
		if err := b.needMetas(a.destination, x, place, place); err != nil {
			return err
		}
	}
	m, _, err := b.meta(a.destination, x, place)
	if err != nil {
		return err
	}
	if m == nil || m.state == gone || x.value.idAt(place) != a.id {
		return b.sure(a.destination, x)
	}
	last := min(place, x.value.mark+removeStep)
	if err := b.needMetas(a.destination, x, x.value.mark+1, last); err != nil {
		return err
	}
	r := newRemover(b, a.destination, x)
	for at := x.value.mark + 1; at <= last; at++ {
		removed, err := r.remove(at)
		if err != nil {
			return err
		}
		if removed {
			a.removed++
		}
		if last > at && r.enough() {
			last = at
		}
	}
	a.more = last < place
	return r.finish(last)
}

// needMetas makes sure that all pages are read that list these places.
func (b *batch) needMetas(destination spec.ServerName, x *record[box], from, to int64) (err error) {
	for first := x.value.pageOf(from); first <= to && first < x.value.base; first += pageSize {
		if p, e := b.page(destination, first); e != nil {
			err = e
		} else if len(*p.value) == 0 {
			err = cmp.Or(b.sure(destination, x), error(&badPage{b.subjects.page(destination, first), errNoPage}))
		}
	}
	return err
}

// A remover takes entries out of a mailbox.
type remover struct {
	b           *batch
	destination spec.ServerName
	box         *record[box]
	before      int // the size of the batch
	messages    int
	missing     error
}

func newRemover(b *batch, destination spec.ServerName, x *record[box]) *remover {
	return &remover{b: b, destination: destination, box: x, before: b.size()}
}

// remove takes away an entry that is live or set aside, and leaves what
// recognises a copy.
func (r *remover) remove(place int64) (removed bool, err error) {
	m, changed, err := r.b.meta(r.destination, r.box, place)
	if err != nil || m == nil || m.state == gone {
		return false, r.need(err)
	}
	share, err := r.b.share(r.destination, m.origin)
	if err != nil {
		return false, r.need(err)
	}
	if m.state == setAside { // what there is of it stays: it's no use to write to what can't be read
		m.state, *changed = gone, true
		r.box.value.aside = max(0, r.box.value.aside-1)
		r.box.changed = true
		return true, nil
	}
	m.state, *changed = gone, true
	r.b.count(r.destination, r.box, share, -1, -m.size)
	r.b.keys[m.key] = struct{}{}
	r.b.vanish(r.b.subjects.mail(m.key), r.b.retention)
	for part := range m.parts {
		r.b.vanish(r.b.subjects.part(m.key, part+1), 0)
	}
	r.messages += 1 + int(m.parts)
	return true, nil
}

// enough says that what else is to be removed is for another batch: a third is
// left for one large mail, and one for the pages.
func (r *remover) enough() bool {
	return r.messages >= removeStep || r.b.size()-r.before >= r.b.maxMessages/3
}

// need notes that something is missing, which the others may be missing, too.
func (r *remover) need(err error) error {
	if errors.Is(err, errMissing) {
		r.missing = err
		return nil
	}
	return err
}

// finish forgets all entries up to a place, which must be gone, and the pages
// that list no others.
func (r *remover) finish(mark int64) error {
	if r.missing != nil {
		return r.missing
	}
	x := r.box.value
	if mark <= x.mark {
		return nil
	}
	for first := x.pageOf(x.mark + 1); first < x.base && first+pageSize-1 <= mark; first += pageSize {
		page, err := r.b.page(r.destination, first)
		if err != nil {
			return err
		}
		*page.value, page.changed = nil, true
	}
	x.mark, r.box.changed = mark, true
	x.forgetJumps()
	if x.holdsNothing() {
		next := x.nextID()
		*x = box{start: next, mark: next - 1, base: next}
	}
	return nil
}

package jetstream

import (
	"fmt"

	"github.com/matrixrelay/relay/store"
)

// Entries of a mailbox have places that follow each other, so that it is known
// which page lists which. IDs are the same numbers, but go on after
// store.FirstID whenever the stream is opened or was set back. A jump says that
// IDs are so much larger than places from there on.
type jump struct{ from, by int64 }

// maxJumps bounds those of a mailbox. A mailbox that has mail from more openings
// goes on without one until some of it is gone.
const maxJumps = 256

func (b *box) idAt(place int64) int64 {
	for i := len(b.jumps) - 1; i >= 0; i-- {
		if b.jumps[i].from <= place {
			return place + b.jumps[i].by
		}
	}
	return place
}

// placeOf returns the last place whose ID isn't greater, or one before the first.
func (b *box) placeOf(id int64) int64 {
	place := id
	for i, j := range b.jumps {
		if id < j.from+j.by {
			return min(place, j.from-1)
		}
		place = id - b.jumps[i].by
	}
	return min(place, b.next()-1)
}

// nextID is the ID of the next entry.
func (b *box) nextID() int64 { return b.idAt(b.next()) }

// jumpTo has the IDs go on with one that is larger than the next.
func (b *box) jumpTo(id int64) {
	n := len(b.jumps)
	switch to := (jump{b.next(), id - b.next()}); {
	case b.holdsNothing():
		*b = newBox(id)
	case n > 0 && b.jumps[n-1].from == to.from:
		b.jumps[n-1] = to
	case n < maxJumps:
		b.jumps = append(b.jumps, to)
	}
}

// forgetJumps drops those that matter for no entry any more.
func (b *box) forgetJumps() {
	for len(b.jumps) > 1 && b.jumps[1].from <= b.mark+1 {
		b.jumps = b.jumps[1:]
	}
}

func (b *box) codeJumps(c *coder) {
	if c.reading && len(c.b) == 0 { // as before there were any
		return
	}
	if n := c.length(len(b.jumps), maxJumps); c.reading && n > 0 {
		b.jumps = make([]jump, n)
	}
	last := jump{}
	for i := range b.jumps {
		j := &b.jumps[i]
		step := jump{j.from - last.from, j.by - last.by}
		c.numbers(&step.from, &step.by)
		last = jump{last.from + step.from, last.by + step.by}
		if *j = last; c.reading && (j.from < 1 || j.from > store.MaxID || j.by < 1 || j.by > store.MaxID) {
			c.fail()
			return
		}
	}
}

// nextID has the mailbox go on with an ID that nobody ever got. A mailbox that is
// new begins after all IDs that this process has seen.
func (b *batch) nextID(p *putJob, r *record[box]) error {
	first := b.first
	if r.value.start == 0 {
		_, top := b.cache.whole("")
		first = max(top+1, store.FirstID(b.wall))
		*r.value = newBox(first)
	}
	known, _ := b.cache.summary(p.mail.Destination)
	if first = max(first, known.next); first > r.value.nextID() { // of a stream that was set back, more was known
		r.value.jumpTo(first)
	}
	if id := r.value.nextID(); id > store.MaxID {
		return fmt.Errorf("jetstream: no IDs are left after %d: is the clock right?", id-1)
	}
	return nil
}

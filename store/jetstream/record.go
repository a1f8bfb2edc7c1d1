package jetstream

import (
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// counts are those of a mailbox, of an origin's share of it or of the store.
type counts struct{ entries, bytes, aside int64 }

func (c counts) usage() store.Usage {
	return store.Usage{Entries: c.entries, Bytes: c.bytes, SetAside: c.aside}
}

func (c counts) plus(d counts) counts {
	return counts{c.entries + d.entries, c.bytes + d.bytes, c.aside + d.aside}
}

func (c counts) minus(d counts) counts {
	return counts{c.entries - d.entries, c.bytes - d.bytes, c.aside - d.aside}
}

// positive is for the counts of something that is kept: counts below zero come from
// damage.
func (c counts) positive() counts {
	return counts{max(0, c.entries), max(0, c.bytes), max(0, c.aside)}
}

func (c *counts) code(by *coder) { by.numbers(&c.entries, &c.bytes, &c.aside) }

// lasts is of a share: the counts of one origin in a mailbox.
func (c *counts) lasts() time.Duration { return lastsIf(*c == counts{}) }

// halves are the counts of the mailboxes of servers, and of the private ones.
type halves [2]counts

// of returns the counts of the half that a name is in.
func (h *halves) of(name spec.ServerName) *counts {
	if store.IsPrivate(name) {
		return &h[1]
	}
	return &h[0]
}

// States of an entry. One that is gone stays so.
const (
	live byte = iota
	setAside
	gone
)

type originHash [8]byte

// A meta has the facts that a mailbox has of an entry.
type meta struct {
	key     seal.Key
	origin  originHash
	size    int64
	expires int64 // in milliseconds of the store's clock, 0: never
	parts   int64 // how many messages there are beside the first
	state   byte
}

func (m *meta) expired(now int64) bool { return m.expires != 0 && m.expires <= now }

func (m *meta) code(c *coder) {
	c.raw(m.key[:])
	c.raw(m.origin[:])
	c.numbers(&m.size, &m.expires, &m.parts)
	state := []byte{m.state}
	c.raw(state)
	if m.state = state[0]; m.parts >= maxParts || m.state > gone {
		c.fail()
	}
}

// pageSize is how many entries a page lists.
const pageSize = 32

// A page lists entries.
type page []meta

func (p *page) code(c *coder) {
	n := c.length(len(*p), pageSize)
	if c.reading {
		*p = make(page, n)
	}
	for i := range *p {
		(*p)[i].code(c)
	}
}

// lasts is for a page whose entries are gone.
func (p *page) lasts() time.Duration {
	if len(*p) == 0 {
		return time.Second
	}
	return 0
}

// A box is the record of a mailbox. Its entries have the places from mark+1 up to
// the one before next. The last few are listed in the record itself, the others
// in pages, which begin at start and have pageSize entries each. The zero box is
// none.
type box struct {
	counts
	start   int64
	mark    int64 // entries up to here are gone
	base    int64 // the place of the first entry in tail
	soonest int64 // no entry expires before; 0: none expires
	tail    page
	jumps   []jump // of the IDs
}

// newBox is a mailbox without entries, whose first one gets that ID.
func newBox(id int64) box { return box{start: id, mark: id - 1, base: id} }

func (b *box) next() int64 { return b.base + int64(len(b.tail)) }

// holdsNothing says that there is neither an entry nor a trace of one.
func (b *box) holdsNothing() bool {
	return b.entries == 0 && b.aside == 0 && b.mark+1 == b.next()
}

// pageOf returns the first place of the page that lists a place; it is base if
// the record itself does.
func (b *box) pageOf(place int64) int64 { return place - (place-b.start)%pageSize }

func (b *box) code(c *coder) {
	b.counts.code(c)
	c.numbers(&b.start, &b.mark, &b.base, &b.soonest)
	b.tail.code(c)
	b.codeJumps(c)
	if c.reading && !b.fitsTogether() {
		c.fail()
	}
}

// fitsTogether reports whether places and IDs are as those of a mailbox are.
func (b *box) fitsTogether() bool {
	return b.start >= 1 && b.mark >= b.start-1 && b.base >= b.start && (b.base-b.start)%pageSize == 0 &&
		b.mark < b.next() && b.nextID()-1 <= store.MaxID &&
		(len(b.jumps) == 0 || b.jumps[len(b.jumps)-1].from <= b.next())
}

func (b *box) lasts() time.Duration { return lastsIf(b.holdsNothing()) }

// emptyFor is how long the record of an empty mailbox is kept, and that of a
// share of nothing. Others learn within that time that there is nothing left.
const emptyFor = 24 * time.Hour

func lastsIf(empty bool) time.Duration {
	if empty {
		return emptyFor
	}
	return 0
}

package jetstream

import (
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// counts are what a mailbox, an origin's share of it or the store holds.
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

// positive is for what holds something: if it's less than nothing, it was
// damaged once.
func (c counts) positive() counts {
	return counts{max(0, c.entries), max(0, c.bytes), max(0, c.aside)}
}

// halves are the counts of the mailboxes of servers, and of the private ones.
type halves [2]counts

// of returns the counts of the half that a name is in.
func (h *halves) of(name spec.ServerName) *counts {
	if store.IsPrivate(name) {
		return &h[1]
	}
	return &h[0]
}

// A share is what one origin has in a mailbox.
func encodeShare(c *counts) []byte {
	e := newEncoder(16)
	e.counts(c)
	return e.b
}

func decodeShare(b []byte) (*counts, error) {
	if len(b) == 0 {
		return &counts{}, nil
	}
	d := newDecoder(b)
	c := d.counts()
	return &c, d.end()
}

// pageSize is how many entries a page lists.
const pageSize = 32

// States of an entry. One that is gone stays so.
const (
	live byte = iota
	setAside
	gone
)

type originHash [8]byte

// A meta is what a mailbox knows of an entry.
type meta struct {
	key     seal.Key
	origin  originHash
	size    int64
	expires int64 // in milliseconds of the store's clock, 0: never
	parts   int64 // how many messages there are beside the first
	state   byte
}

func (m *meta) expired(now int64) bool { return m.expires != 0 && m.expires <= now }

// A box is the record of a mailbox. Its entries have the places from mark+1 up to
// the one before next. The last few are listed in the record itself, the others
// in pages, which begin at start and have pageSize entries each.
type box struct {
	counts
	start   int64
	mark    int64 // entries up to here are gone
	base    int64 // the place of the first entry in tail
	soonest int64 // no entry expires before; 0: none expires
	tail    []meta
	jumps   []jump // of the IDs
}

func (b *box) next() int64 { return b.base + int64(len(b.tail)) }

// holdsNothing says that there is neither an entry nor a trace of one.
func (b *box) holdsNothing() bool {
	return b.entries == 0 && b.aside == 0 && b.mark+1 == b.next()
}

// pageOf returns the first place of the page that lists a place; it is base if
// the record itself does.
func (b *box) pageOf(place int64) int64 { return place - (place-b.start)%pageSize }

func (b *box) encode() []byte {
	e := newEncoder(64 + 48*len(b.tail))
	e.counts(&b.counts)
	e.number(b.start, b.mark, b.base, b.soonest)
	encodeMetas(e, b.tail)
	encodeJumps(e, b.jumps)
	return e.b
}

// decodeBox returns nil if there is no such record.
func decodeBox(data []byte) (*box, error) {
	if len(data) == 0 {
		return nil, nil
	}
	d := newDecoder(data)
	b := &box{counts: d.counts(), start: d.number(), mark: d.number(), base: d.number(), soonest: d.number()}
	b.tail = decodeMetas(d)
	b.jumps = decodeJumps(d)
	if err := d.end(); err != nil {
		return nil, err
	}
	return b, b.check()
}

// check returns an error if places and IDs don't fit together as those of a mailbox do.
func (b *box) check() error {
	if b.start < 1 || b.mark < b.start-1 || b.base < b.start || (b.base-b.start)%pageSize != 0 ||
		b.mark >= b.next() || b.nextID()-1 > store.MaxID ||
		len(b.jumps) > 0 && b.jumps[len(b.jumps)-1].from > b.next() {
		return errCodec
	}
	return nil
}

func encodePage(metas []meta) []byte {
	e := newEncoder(16 + 48*len(metas))
	encodeMetas(e, metas)
	return e.b
}

// decodePage returns nil if there is no such page.
func decodePage(b []byte) ([]meta, error) {
	if len(b) == 0 {
		return nil, nil
	}
	d := newDecoder(b)
	metas := decodeMetas(d)
	return metas, d.end()
}

func encodeMetas(e *encoder, metas []meta) {
	e.number(int64(len(metas)))
	for i := range metas {
		m := &metas[i]
		e.raw(m.key[:])
		e.raw(m.origin[:])
		e.number(m.size, m.expires, m.parts)
		e.raw([]byte{m.state})
	}
}

func decodeMetas(d *decoder) []meta {
	n := d.number()
	if n > pageSize {
		d.err = errCodec
		return nil
	}
	metas := make([]meta, n)
	for i := range metas {
		m := &metas[i]
		copy(m.key[:], d.raw(len(m.key)))
		copy(m.origin[:], d.raw(len(m.origin)))
		m.size, m.expires, m.parts = d.number(), d.number(), d.number()
		if state := d.raw(1); state != nil {
			m.state = state[0]
		}
		if m.parts >= maxParts || m.state > gone {
			d.err = errCodec
		}
	}
	return slices.Clip(metas)
}

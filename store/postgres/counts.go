package postgres

import (
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// counts are the sums over a mailbox, an origin's share of it or the store.
type counts struct{ entries, bytes, setAside int64 }

func (c *counts) add(d counts) {
	c.entries += d.entries
	c.bytes += d.bytes
	c.setAside += d.setAside
}

func (c counts) plus(d counts) counts {
	c.add(d)
	return c
}

// within reports whether limits are kept, of which zero is none.
func (c counts) within(maxEntries, maxBytes int64) bool {
	return (maxEntries <= 0 || c.entries <= maxEntries) && (maxBytes <= 0 || c.bytes <= maxBytes)
}

// A mailbox has the counts before the batch, and the batch's change of them.
type mailbox struct {
	id     int64
	half   int
	counts counts
	change counts
	acked  int64
	shares map[spec.ServerName]*share
}

type share struct{ counts, change counts }

func (m *mailbox) share(origin spec.ServerName) *share {
	s := m.shares[origin]
	if s == nil {
		s = &share{}
		m.shares[origin] = s
	}
	return s
}

// count changes the counts of its half of the store, of the mailbox and, but for
// mail that is set aside, of the origin's share.
func (b *batch) count(m *mailbox, origin spec.ServerName, d counts) {
	b.change[m.half].add(d)
	m.change.add(d)
	d.setAside = 0
	m.share(origin).change.add(d)
}

// queueCounts writes the changes of the counts.
func (b *batch) queueCounts(q *pgx.Batch) {
	var ids, entries, bytes, aside, acked []int64
	var shares shareColumns
	for _, id := range slices.Sorted(maps.Keys(b.byID)) {
		m := b.byID[id]
		shares.add(m)
		if m.change == (counts{}) && m.acked == 0 {
			continue
		}
		ids, acked = append(ids, id), append(acked, m.acked)
		entries, bytes, aside = append(entries, m.change.entries), append(bytes, m.change.bytes), append(aside, m.change.setAside)
	}
	if len(ids) > 0 {
		q.Queue(b.schema.sql(countMailboxesSQL), ids, entries, bytes, aside, acked)
	}
	shares.queue(b.schema, q)
	for half, c := range b.change {
		if c != (counts{}) {
			q.Queue(b.schema.sql(countTotalSQL), shardIn(half, b.shard), c.entries, c.bytes, c.setAside, b.now)
		}
	}
}

// shareColumns are the shares that change.
type shareColumns struct {
	mailboxes, entries, bytes []int64
	origins                   [][]byte
	shrinks                   bool
}

func (c *shareColumns) add(m *mailbox) {
	for origin, s := range m.shares {
		if s.change == (counts{}) {
			continue
		}
		c.mailboxes, c.origins = append(c.mailboxes, m.id), append(c.origins, []byte(origin))
		c.entries, c.bytes = append(c.entries, s.change.entries), append(c.bytes, s.change.bytes)
		c.shrinks = c.shrinks || s.change.entries < 0
	}
}

func (c *shareColumns) queue(s schema, q *pgx.Batch) {
	if len(c.mailboxes) == 0 {
		return
	}
	q.Queue(s.sql(countSharesSQL), c.mailboxes, c.origins, c.entries, c.bytes)
	if c.shrinks {
		q.Queue(s.sql(dropSharesSQL), c.mailboxes, c.origins)
	}
}

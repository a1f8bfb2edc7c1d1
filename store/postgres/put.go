package postgres

import (
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
	"github.com/matrixrelay/relay/store/internal/steady"
)

// A put stores mail. Stored and refused are its outcome.
type put struct {
	mail   store.Mail
	limits store.Limits
	key    seal.Key

	stored    bool
	refused   error
	overLimit bool

	// given are the IDs that it got in transactions whose end nobody knows. When
	// the mail turns out to be there under one of them, this put stored it.
	given []int64
}

func newPut(mail store.Mail, limits store.Limits) *put {
	return &put{mail: mail, limits: limits, key: seal.KeyOf(&mail)}
}

func (p *put) touches() []spec.ServerName { return []spec.ServerName{p.mail.Destination} }

func (p *put) ask(*batch, *pgx.Batch) {} // see putQuestions

func (p *put) decide(b *batch) error {
	p.stored, p.refused, p.overLimit = false, nil, false // it may run again
	if id, known := b.known[p.key]; known {
		p.stored = slices.Contains(p.given, id)
		// The call that put it first may not have learnt that, and have told nobody.
		b.woken[p.mail.Destination] = struct{}{}
		return nil
	}
	m := b.mailboxes[p.mail.Destination]
	p.overLimit = !p.fits(b, m)
	if p.overLimit || b.noRoom {
		p.refused = fmt.Errorf("postgres: mail from %s for %s: %w", p.mail.Origin, p.mail.Destination, store.ErrFull)
		return nil
	}
	id := b.freeIDs[0]
	b.freeIDs = b.freeIDs[1:]
	b.known[p.key] = id
	b.woken[p.mail.Destination] = struct{}{}
	b.entries.add(id, m.id, steady.Until(b.now, p.mail.Lifetime), p)
	b.count(m, p.mail.Origin, counts{entries: 1, bytes: p.mail.Size()})
	p.given = append(p.given, id)
	p.stored = true
	return nil
}

func (p *put) fits(b *batch, m *mailbox) bool {
	more, l := counts{entries: 1, bytes: p.mail.Size()}, p.limits
	if !m.counts.plus(m.change).plus(more).within(l.Entries, l.Bytes) {
		return false
	}
	if limitsOrigin(l) {
		s := m.share(p.mail.Origin)
		if !s.counts.plus(s.change).plus(more).within(l.OriginEntries, l.OriginBytes) {
			return false
		}
	}
	return !limitsStore(l) || b.fitsTotal(m.half, p.mail.Size(), l.StoreEntries, l.StoreBytes)
}

func limitsOrigin(l store.Limits) bool { return l.OriginEntries > 0 || l.OriginBytes > 0 }
func limitsStore(l store.Limits) bool  { return l.StoreEntries > 0 || l.StoreBytes > 0 }

// putQuestions are all that the puts of a batch depend on.
type putQuestions struct {
	destinations map[spec.ServerName]struct{}
	keys         [][]byte
	shares       map[[2]spec.ServerName]struct{} // destination and origin
	bytes        int64
	ofStore      bool
}

func (q *putQuestions) add(p *put) {
	if q.destinations == nil {
		q.destinations = make(map[spec.ServerName]struct{})
		q.shares = make(map[[2]spec.ServerName]struct{})
	}
	q.destinations[p.mail.Destination] = struct{}{}
	q.keys = append(q.keys, p.key[:])
	if limitsOrigin(p.limits) {
		q.shares[[2]spec.ServerName{p.mail.Destination, p.mail.Origin}] = struct{}{}
	}
	q.bytes += p.mail.Size()
	q.ofStore = q.ofStore || limitsStore(p.limits)
}

// askForPuts comes behind the locks, so that each statement sees everything that was
// committed before them.
func (b *batch) askForPuts(q *pgx.Batch, puts *putQuestions) {
	if len(puts.keys) == 0 {
		return
	}
	q.Queue(b.schema.sql(knownSQL), puts.keys).Query(b.readKnown)
	if len(puts.shares) > 0 {
		var destinations, origins [][]byte
		for pair := range puts.shares {
			destinations, origins = append(destinations, []byte(pair[0])), append(origins, []byte(pair[1]))
		}
		q.Queue(b.schema.sql(sharesSQL), destinations, origins).Query(b.readShares)
	}
	q.Queue(b.schema.sql(newIDsSQL), len(puts.keys)).Query(b.readIDs)
	if puts.ofStore {
		b.exact = b.exact || puts.bytes > fastBytes
		b.askForTotal(q)
	}
}

func (b *batch) readKnown(rows pgx.Rows) error {
	for rows.Next() {
		var key []byte
		var id int64
		if err := rows.Scan(&key, &id); err != nil {
			return fmt.Errorf("known: %w", err)
		}
		b.known[seal.Key(key)] = id
	}
	return rows.Err()
}

func (b *batch) readShares(rows pgx.Rows) error {
	for rows.Next() {
		var mailbox int64
		var origin []byte
		var c counts
		if err := rows.Scan(&mailbox, &origin, &c.entries, &c.bytes); err != nil {
			return fmt.Errorf("share: %w", err)
		}
		if m := b.byID[mailbox]; m != nil {
			m.share(spec.ServerName(origin)).counts = c
		}
	}
	return rows.Err()
}

// readIDs notices IDs that were given before: the database was set back.
func (b *batch) readIDs(rows pgx.Rows) (err error) {
	b.freeIDs, err = pgx.AppendRows(b.freeIDs, rows, pgx.RowTo[int64])
	if len(b.freeIDs) > 0 {
		b.setBack = b.freeIDs[0] <= b.lastID
		b.lastID = max(b.lastID, b.freeIDs[len(b.freeIDs)-1])
	}
	return err
}

// columns are the rows of new entries.
type columns struct {
	ids, mailboxes, until, sizes, checksums      []int64
	keys, origins, txns, digests, proofs, bodies [][]byte
}

func (c *columns) add(id, mailbox, until int64, p *put) {
	c.ids, c.mailboxes = append(c.ids, id), append(c.mailboxes, mailbox)
	c.until, c.sizes = append(c.until, until), append(c.sizes, p.mail.Size())
	c.checksums = append(c.checksums, seal.Checksum(until, p.mail.Body, p.mail.Proof))
	c.keys, c.digests = append(c.keys, p.key[:]), append(c.digests, p.mail.Digest[:])
	c.origins, c.txns = append(c.origins, []byte(p.mail.Origin)), append(c.txns, []byte(p.mail.TransactionID))
	c.proofs, c.bodies = append(c.proofs, notNull(p.mail.Proof)), append(c.bodies, notNull(p.mail.Body))
}

func (c *columns) queue(s schema, q *pgx.Batch) {
	if len(c.ids) > 0 {
		q.Queue(s.sql(insertSQL), c.ids, c.mailboxes, c.keys, c.until, c.sizes, c.origins, c.txns, c.digests, c.checksums, c.proofs, c.bodies)
	}
}

// notNull makes bytes of nil, which would be NULL.
func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

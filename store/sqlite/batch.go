package sqlite

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A batch is a transaction under way. The counts of the mailboxes that it
// touches are kept here and written once, at its end.
type batch struct {
	sql       *statements
	retention time.Duration
	now       int64 // on the store's clock
	noRoom    bool  // the disk has none for more mail
	dir       string
	written   int64 // about how many bytes this adds to the log
	copies    remembered

	last int64 // the greatest ID that an entry has

	mailboxes map[spec.ServerName]*mailbox
	total     total
	woken     map[spec.ServerName]struct{}
}

// counts are those of a mailbox, of an origin's share of it or of the store.
type counts struct{ entries, bytes, setAside int64 }

func (c *counts) add(entries, bytes int64) {
	c.entries += entries
	c.bytes += bytes
}

// check returns an error if the counts are impossible.
func (c *counts) check() error {
	if c.entries < 0 || c.bytes < 0 || c.setAside < 0 || c.entries == 0 && c.bytes != 0 {
		return fmt.Errorf("%w: a count can't be: %d entries of %d bytes, %d set aside", errDamaged, c.entries, c.bytes, c.setAside)
	}
	return nil
}

type mailbox struct {
	id   int64 // 0: not in the database
	last int64 // its newest entry
	counts
	shares map[spec.ServerName]*counts
}

func newBatch(w *writer) *batch {
	return &batch{
		sql: w.sql, dir: w.files.dir(), retention: w.options.Retention, now: w.clock.Now(), last: w.last, copies: w.copies,
		mailboxes: make(map[spec.ServerName]*mailbox),
		woken:     make(map[spec.ServerName]struct{}),
	}
}

// run does the jobs, leaves out those whose caller has gone, and writes the
// counts. After an error the transaction must be rolled back.
func (b *batch) run(jobs []*job) error {
	if err := b.total.read(b.sql.total.QueryRow()); err != nil {
		return err
	}
	for _, j := range jobs {
		if j.Work.skipped = j.Gone(); j.Work.skipped != nil {
			continue
		}
		if err := j.Work.run(b); err != nil {
			return err
		}
	}
	if err := b.forgetMore(); err != nil {
		return err
	}
	return b.flush()
}

// mailbox returns the counts of a destination, new ones if it has no mail.
func (b *batch) mailbox(destination spec.ServerName) (*mailbox, error) {
	if m := b.mailboxes[destination]; m != nil {
		return m, nil
	}
	m := &mailbox{shares: make(map[spec.ServerName]*counts)}
	row := b.sql.mailbox.QueryRow(string(destination))
	err := row.Scan(&m.id, &m.entries, &m.bytes, &m.setAside, &m.last)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("mailbox: %w", err)
	}
	b.mailboxes[destination] = m
	return m, nil
}

// share returns the counts of an origin in a mailbox.
func (b *batch) share(m *mailbox, origin spec.ServerName) (*counts, error) {
	if s := m.shares[origin]; s != nil {
		return s, nil
	}
	s := &counts{}
	err := b.sql.share.QueryRow(m.id, string(origin)).Scan(&s.entries, &s.bytes)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("share: %w", err)
	}
	m.shares[origin] = s
	return s, nil
}

// count adds to the mailbox of destination, the origin's share of it and the
// total.
func (b *batch) count(destination spec.ServerName, m *mailbox, origin spec.ServerName, entries, bytes int64) error {
	s, err := b.share(m, origin)
	if err != nil {
		return err
	}
	m.add(entries, bytes)
	s.add(entries, bytes)
	b.total.of(destination).add(entries, bytes)
	return nil
}

func (b *batch) flush() error {
	for _, m := range b.mailboxes {
		if m.id == 0 {
			continue
		}
		if err := b.flushMailbox(m); err != nil {
			return fmt.Errorf("counts: %w", err)
		}
	}
	b.total.clock = b.now
	_, err := b.sql.setTotal.Exec(b.total.values()...)
	return cmp.Or(err, b.total.check())
}

// flushMailbox writes the counts of a mailbox; one that is empty goes.
func (b *batch) flushMailbox(m *mailbox) error {
	for origin, s := range m.shares {
		if err := b.flushShare(m.id, origin, s); err != nil {
			return err
		}
	}
	if err := m.check(); err != nil {
		return err
	}
	if m.entries == 0 && m.setAside == 0 {
		return b.drop(m)
	}
	_, err := b.sql.setMailbox.Exec(m.entries, m.bytes, m.setAside, m.last, m.id)
	return err
}

func (b *batch) flushShare(mailboxID int64, origin spec.ServerName, s *counts) (err error) {
	if s.entries == 0 {
		_, err = b.sql.dropShare.Exec(mailboxID, string(origin))
	} else {
		_, err = b.sql.setShare.Exec(mailboxID, string(origin), s.entries, s.bytes)
	}
	return cmp.Or(err, s.check())
}

// drop removes a mailbox. Entries without one could be handed out to nobody.
func (b *batch) drop(m *mailbox) error {
	var left int64
	if err := b.sql.left.QueryRow(m.id).Scan(&left); err == nil {
		return fmt.Errorf("%w: a mailbox that is empty by its count has entry %d", errDamaged, left)
	} else if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	_, err := b.sql.dropMailbox.Exec(m.id)
	return err
}

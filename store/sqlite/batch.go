package sqlite

import (
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
	stuck     map[int64]struct{}
	now       int64 // on the store's clock
	noRoom    bool  // the disk has none for more mail
	written   int64 // about what this adds to the log, in bytes

	raise int64 // entries get greater IDs than this; 0: they do

	mailboxes map[spec.ServerName]*mailbox
	total     halves
	woken     map[spec.ServerName]struct{}
}

// counts are what a mailbox, an origin's share of it or the store holds.
type counts struct{ entries, bytes, setAside int64 }

func (c *counts) add(entries, bytes int64) {
	c.entries += entries
	c.bytes += bytes
}

type mailbox struct {
	id int64 // 0: not in the database
	counts
	shares map[spec.ServerName]*counts
}

func newBatch(w *writer) *batch {
	return &batch{
		sql: w.sql, retention: w.options.Retention, stuck: w.stuck, now: w.clock.Now(), raise: w.raise,
		mailboxes: make(map[spec.ServerName]*mailbox),
		woken:     make(map[spec.ServerName]struct{}),
	}
}

// run does the jobs, leaves out those whose caller has gone, and writes the
// counts. After an error the transaction must be rolled back.
func (b *batch) run(jobs []*job) error {
	if err := b.sql.total.QueryRow().Scan(b.total.scan()...); err != nil {
		return fmt.Errorf("total: %w", err)
	}
	for _, j := range jobs {
		if j.Work.skipped = j.Gone(); j.Work.skipped != nil {
			continue
		}
		if err := j.Work.run(b); err != nil {
			return err
		}
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
	err := row.Scan(&m.id, &m.entries, &m.bytes, &m.setAside)
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
	for destination, m := range b.mailboxes {
		if m.id == 0 {
			continue
		}
		if err := b.flushMailbox(destination, m); err != nil {
			return fmt.Errorf("counts: %w", err)
		}
	}
	_, err := b.sql.setTotal.Exec(append(b.total.scan(), b.now)...)
	return err
}

// flushMailbox writes the counts of a mailbox; one that is empty goes.
func (b *batch) flushMailbox(destination spec.ServerName, m *mailbox) error {
	for origin, s := range m.shares {
		var err error
		if s.entries == 0 {
			_, err = b.sql.dropShare.Exec(m.id, string(origin))
		} else {
			_, err = b.sql.setShare.Exec(m.id, string(origin), s.entries, s.bytes)
		}
		if err != nil {
			return err
		}
	}
	if m.entries == 0 && m.setAside == 0 {
		_, err := b.sql.dropMailbox.Exec(m.id)
		return err
	}
	_, err := b.sql.setMailbox.Exec(m.entries, m.bytes, m.setAside, m.id)
	return err
}

package sqlite

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"
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
	m, err := b.mailbox(a.destination)
	if err != nil || m.id == 0 {
		return err
	}
	var owner int64
	err = b.sql.owner.QueryRow(a.id).Scan(&owner)
	if errors.Is(err, sql.ErrNoRows) || err == nil && owner != m.id {
		return nil
	} else if err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	mine := func(r *entryRow) bool { return r.mailbox == m.id }
	a.removed, a.more, err = b.each(b.step(), func(id int64) error { return b.retire(id, mine) }, b.sql.upTo, m.id, a.id)
	return err
}

// expire retires a step of the entries whose time is over, and reports whether
// there are more.
func (b *batch) expire() (more bool, err error) {
	over := func(r *entryRow) bool { return r.until <= b.now }
	for _, state := range []int{live, setAside} {
		_, again, err := b.each(b.step(), func(id int64) error { return b.retire(id, over) }, b.sql.expired, state, b.now)
		if err != nil {
			return false, fmt.Errorf("expired: %w", err)
		}
		more = more || again
	}
	return more, nil
}

// each does something to the first few of the entries whose IDs the statement lists,
// and returns to how many, and whether there are more. The list comes from an
// index alone, which may be damaged: nothing is done to a row that doesn't say
// the same.
func (b *batch) each(few int, do func(id int64) error, list *sql.Stmt, args ...any) (done int, more bool, err error) {
	ids, err := column[int64](list, append(args, few)...)
	if err != nil {
		return 0, false, err
	}
	for _, id := range ids {
		if err := do(id); errors.Is(err, sql.ErrNoRows) {
			return 0, false, fmt.Errorf("%w: entry %d is in an index only", errDamaged, id)
		} else if err != nil {
			return 0, false, fmt.Errorf("entry %d: %w", id, err)
		}
		b.written += rowCost
	}
	return len(ids), len(ids) == few, nil
}

// retire takes the body of an entry that is live or set aside, and leaves the fields
// that recognise a copy.
func (b *batch) retire(id int64, may func(*entryRow) bool) error {
	r, err := b.sql.entry.byID(id)
	if err != nil {
		return err
	}
	if r.state == setAside && r.isShort() && may(r) {
		return b.dropAside(r)
	}
	if r.state != live || !r.isProven() || !may(r) {
		return fmt.Errorf("%w: %w", errDamaged, errChecksum)
	}
	m, err := b.mailbox(r.mail.Destination)
	if err != nil {
		return err
	}
	until := b.now + b.retention.Milliseconds()
	if _, err := b.sql.retire.Exec(until, r.sealAs(until, nil, nil), id); err != nil {
		return err
	}
	b.copies.add(r.mail.Origin, id, until)
	return b.count(r.mail.Destination, m, r.mail.Origin, -1, -r.size)
}

// dropAside removes an entry that is set aside.
func (b *batch) dropAside(r *entryRow) error {
	m, err := b.mailbox(r.mail.Destination)
	if err != nil {
		return err
	}
	if _, err := b.sql.forget.Exec(r.id); err != nil {
		return err
	}
	m.setAside--
	b.total.of(r.mail.Destination).setAside--
	return nil
}

// A setAsideJob takes an entry that can't be read out of its mailbox.
type setAsideJob struct {
	destination spec.ServerName
	id          int64
}

// run does so only if that can harm no other entry: SQLite would free the pages
// on which a damaged row seems to go on.
func (s *setAsideJob) run(b *batch) error {
	r, err := b.sql.entry.byID(s.id)
	if errors.Is(err, sql.ErrNoRows) || err == nil && (r.state == gone || r.state == setAside) {
		return nil // somebody else has done it
	}
	if err != nil {
		return err
	}
	if r.isProven() || !r.isShort() || r.mail.Destination != s.destination {
		return fmt.Errorf("%w: entry %d can only be left out of a new database", errDamaged, s.id)
	}
	m, err := b.mailbox(s.destination)
	if err != nil {
		return err
	}
	if _, err := b.sql.setAside.Exec(s.id); err != nil {
		return err
	}
	m.setAside++
	b.total.of(s.destination).setAside++
	return b.count(s.destination, m, r.mail.Origin, -1, -r.size)
}

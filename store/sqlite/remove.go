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
	a.removed, a.more, err = b.each(b.retire, b.sql.upTo, m.id, a.id)
	return err
}

// expire retires a step of the entries whose time is over, and reports whether
// there are more.
func (b *batch) expire() (more bool, err error) {
	for _, state := range []int{live, setAside} {
		_, again, err := b.each(b.retire, b.sql.expired, state, b.now)
		if err != nil {
			return false, fmt.Errorf("expired: %w", err)
		}
		more = more || again
	}
	return more, nil
}

// each does something to a step of the entries whose IDs the statement lists,
// and returns to how many, and whether there are more. The list comes from an
// index alone, so that a row that can't be read is in nobody's way.
func (b *batch) each(do func(id int64) error, list *sql.Stmt, args ...any) (done int, more bool, err error) {
	limit := sweepStep + len(b.stuck)
	ids, err := b.ids(list, append(args, limit)...)
	if err != nil {
		return 0, false, err
	}
	for _, id := range ids {
		if _, ok := b.stuck[id]; ok {
			continue
		}
		if err := do(id); err != nil {
			return 0, false, err
		}
		b.written += rowCost
		done++
	}
	return done, len(ids) == limit && done > 0, nil
}

func (b *batch) ids(list *sql.Stmt, args ...any) (ids []int64, err error) {
	rows, err := list.Query(args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// A row is what must be known of an entry to remove it.
type row struct {
	state       int
	destination spec.ServerName
	origin      spec.ServerName
	size        int64
}

func (b *batch) row(id int64) (r row, err error) {
	err = b.sql.one.QueryRow(id).Scan(&r.state, &r.destination, &r.origin, &r.size)
	return r, damaged(id, err)
}

// retire takes the body of an entry that is live or set aside, and leaves what
// recognises a copy.
func (b *batch) retire(id int64) error {
	r, err := b.row(id)
	if err != nil {
		return err
	}
	m, err := b.mailbox(r.destination)
	if err != nil {
		return err
	}
	if _, err := b.sql.retire.Exec(b.now+b.retention.Milliseconds(), id); err != nil {
		return damaged(id, err)
	}
	if r.state == setAside {
		m.setAside--
		b.total.of(r.destination).setAside--
		return nil
	}
	return b.count(r.destination, m, r.origin, -1, -r.size)
}

// A setAsideJob takes an entry that can't be read out of its mailbox.
type setAsideJob struct {
	destination spec.ServerName
	id          int64
}

func (s *setAsideJob) run(b *batch) error {
	r, err := b.row(s.id)
	if errors.Is(err, sql.ErrNoRows) || err == nil && (r.state != live || r.destination != s.destination) {
		return nil // somebody else has done it
	}
	if err != nil {
		return err
	}
	m, err := b.mailbox(s.destination)
	if err != nil {
		return err
	}
	if _, err := b.sql.setAside.Exec(s.id); err != nil {
		return damaged(s.id, err)
	}
	m.setAside++
	b.total.of(s.destination).setAside++
	return b.count(s.destination, m, r.origin, -1, -r.size)
}

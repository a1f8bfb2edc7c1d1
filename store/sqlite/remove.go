package sqlite

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// An ackJob acknowledges a step of entries; more says that it must run again.
type ackJob struct {
	destination spec.ServerName
	id          int64
	removed     int
	more        bool
}

func (a *ackJob) run(b *batch) error {
	before := a.removed
	m, err := b.mailbox(a.destination)
	if err != nil || m.id == 0 {
		a.more = false
		return err
	}
	var owner int64
	err = b.sql.owner.QueryRow(a.id).Scan(&owner)
	if errors.Is(err, sql.ErrNoRows) || err == nil && owner != m.id {
		a.more = false
		return nil
	} else if err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	rows, err := b.rows(b.sql.upTo, m.id, a.id, sweepStep)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if err := b.retire(m, r, live); err != nil {
			return err
		}
	}
	a.removed = before + len(rows)
	a.more = len(rows) == sweepStep
	return nil
}

// A row is what must be known of an entry to remove it.
type row struct {
	id          int64
	destination spec.ServerName
	origin      spec.ServerName
	size        int64
}

// rows reads what the statement selects: id, destination, origin, size.
func (b *batch) rows(statement *sql.Stmt, args ...any) (rows []row, err error) {
	result, err := statement.Query(args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, result.Close()) }()
	for result.Next() {
		var r row
		if err := result.Scan(&r.id, &r.destination, &r.origin, &r.size); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, result.Err()
}

// retire takes the body of an entry that is live or set aside, and leaves what
// recognises a copy.
func (b *batch) retire(m *mailbox, r row, state int) error {
	if _, err := b.sql.retire.Exec(b.now+b.retention.Milliseconds(), r.id); err != nil {
		return fmt.Errorf("retire: %w", err)
	}
	if state == setAside {
		m.setAside--
		b.total.setAside--
		return nil
	}
	return b.count(m, r.origin, -1, -r.size)
}

// expire retires a step of the entries whose time is over, and returns how
// many it found.
func (b *batch) expire() (int, error) {
	found := 0
	for _, state := range []int{live, setAside} {
		rows, err := b.rows(b.sql.expired, state, b.now, sweepStep-found)
		if err != nil {
			return 0, fmt.Errorf("expired: %w", err)
		}
		for _, r := range rows {
			m, err := b.mailbox(r.destination)
			if err != nil {
				return 0, err
			}
			if err := b.retire(m, r, state); err != nil {
				return 0, err
			}
		}
		found += len(rows)
	}
	return found, nil
}

// A setAsideJob takes an entry that can't be read out of its mailbox.
type setAsideJob struct {
	destination spec.ServerName
	id          int64
}

func (s *setAsideJob) run(b *batch) error {
	m, err := b.mailbox(s.destination)
	if err != nil {
		return err
	}
	rows, err := b.rows(b.sql.one, m.id, s.id)
	if err != nil || len(rows) == 0 { // somebody else has done it
		return err
	}
	if _, err := b.sql.setAside.Exec(s.id); err != nil {
		return fmt.Errorf("set aside: %w", err)
	}
	m.setAside++
	b.total.setAside++
	return b.count(m, rows[0].origin, -1, -rows[0].size)
}

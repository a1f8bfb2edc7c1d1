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
	done := 0
	for _, r := range rows {
		retired, err := b.retire(m, r, live)
		if err != nil {
			return err
		}
		done += retired
	}
	a.removed = before + done
	a.more = len(rows) == sweepStep && done > 0
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
// recognises a copy. It returns how many it retired: 1, or 0 if the row can't
// be changed.
func (b *batch) retire(m *mailbox, r row, state int) (int, error) {
	if _, ok := b.stuck[r.id]; ok {
		return 0, nil
	}
	_, err := b.sql.retire.Exec(b.now+b.retention.Milliseconds(), r.id)
	if isDamage(err) {
		return 0, &damagedRow{r.id, err}
	}
	if err != nil {
		return 0, fmt.Errorf("retire: %w", err)
	}
	if state == setAside {
		m.setAside--
		b.total.setAside--
		return 1, nil
	}
	return 1, b.count(m, r.origin, -1, -r.size)
}

// expire retires a step of the entries whose time is over, and returns how
// many those were.
func (b *batch) expire() (int, error) {
	done := 0
	for _, state := range []int{live, setAside} {
		rows, err := b.rows(b.sql.expired, state, b.now, sweepStep-done)
		if err != nil {
			return 0, fmt.Errorf("expired: %w", err)
		}
		for _, r := range rows {
			m, err := b.mailbox(r.destination)
			if err != nil {
				return 0, err
			}
			retired, err := b.retire(m, r, state)
			if err != nil {
				return 0, err
			}
			done += retired
		}
	}
	return done, nil
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

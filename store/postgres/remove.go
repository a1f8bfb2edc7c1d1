package postgres

import (
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// step is how many entries one transaction removes, so that others never wait
// for long.
const step = 1024

// An ack acknowledges one step of entries; more says that there are others.
type ack struct {
	destination spec.ServerName
	id          int64

	removed int
	more    bool
}

func (a *ack) touches() []spec.ServerName { return []spec.ServerName{a.destination} }

func (a *ack) ask(b *batch, q *pgx.Batch) {
	q.Queue(b.schema.sql(ackSQL), b.forget, []byte(a.destination), a.id, step).Query(func(rows pgx.Rows) error {
		dead, last, err := b.bury(rows)
		if err != nil {
			return fmt.Errorf("ack: %w", err)
		}
		a.removed, a.more = dead, dead == step
		if m := b.mailboxes[a.destination]; m != nil {
			m.acked = max(m.acked, last)
		}
		return nil
	})
}

func (a *ack) decide(*batch) error { return nil }

// An expiry removes a step of the expired mail in these mailboxes.
type expiry struct {
	destinations []spec.ServerName
	removed      int
}

func (e *expiry) touches() []spec.ServerName { return e.destinations }

func (e *expiry) ask(b *batch, q *pgx.Batch) {
	q.Queue(b.schema.sql(expireSQL), b.forget, b.now, byteSlices(e.destinations), step).Query(func(rows pgx.Rows) (err error) {
		if e.removed, _, err = b.bury(rows); err != nil {
			return fmt.Errorf("expire: %w", err)
		}
		return nil
	})
}

func (e *expiry) decide(*batch) error { return nil }

// bury counts the entries that a statement has removed, and returns how many those
// were and the last ID.
func (b *batch) bury(rows pgx.Rows) (dead int, last int64, err error) {
	for rows.Next() {
		var mailboxID, entries, bytes, id int64
		var state int16
		var origin []byte
		var keys [][]byte
		if err := rows.Scan(&mailboxID, &origin, &state, &entries, &bytes, &id, &keys); err != nil {
			return 0, 0, err
		}
		dead, last = dead+int(entries), max(last, id)
		m := b.byID[mailboxID]
		if m == nil {
			return 0, 0, fmt.Errorf("mailbox %d isn't locked", mailboxID)
		}
		change := counts{entries: -entries, bytes: -bytes}
		if state == setAside {
			change = counts{setAside: -entries}
		}
		b.count(m, spec.ServerName(origin), change)
		b.buried = append(b.buried, burial{spec.ServerName(origin), keys})
	}
	return dead, last, rows.Err()
}

// A settingAside takes an entry that can't be read out of its mailbox.
type settingAside struct {
	destination spec.ServerName
	id          int64
}

func (s *settingAside) touches() []spec.ServerName { return []spec.ServerName{s.destination} }

func (s *settingAside) ask(b *batch, q *pgx.Batch) {
	q.Queue(b.schema.sql(setAsideSQL), []byte(s.destination), s.id).Query(func(rows pgx.Rows) error {
		for rows.Next() { // one, if nobody else has done it
			var mailboxID, size int64
			var origin []byte
			if err := rows.Scan(&mailboxID, &origin, &size); err != nil {
				return fmt.Errorf("set aside: %w", err)
			}
			if m := b.byID[mailboxID]; m != nil {
				b.count(m, spec.ServerName(origin), counts{entries: -1, bytes: -size, setAside: 1})
			}
		}
		return rows.Err()
	})
}

func (s *settingAside) decide(*batch) error { return nil }

package postgres

import (
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// step is how many entries one transaction removes, so that others never wait
// for long.
const step = 1024

// A removal removes a step of entries, which a statement finds. Its arguments follow the
// time when copies of them are forgotten.
type removal struct {
	doing, sql   string
	args         []any
	destinations []spec.ServerName
	acks         bool // all entries of one destination up to an ID

	removed int
}

func (r *removal) touches() []spec.ServerName { return r.destinations }

func (r *removal) ask(b *batch, q *pgx.Batch) {
	q.Queue(b.schema.sql(r.sql), append([]any{b.forget}, r.args...)...).Query(func(rows pgx.Rows) (err error) {
		var last int64
		if r.removed, last, err = b.bury(rows); err != nil {
			return fmt.Errorf("%s: %w", r.doing, err)
		}
		if m := b.mailboxes[r.destinations[0]]; m != nil && r.acks {
			m.acked = max(m.acked, last)
		}
		return nil
	})
}

func (r *removal) decide(*batch) error { return nil }

// removalOf is one in a mailbox.
func removalOf(destination spec.ServerName, doing, sql string, args ...any) *removal {
	return &removal{
		doing: doing, sql: sql, args: append([]any{[]byte(destination)}, args...), destinations: []spec.ServerName{destination},
	}
}

// expiryOf removes a step of the mail in these mailboxes that has expired by now.
func expiryOf(destinations []spec.ServerName, now int64) *removal {
	return &removal{doing: "expire", sql: expireSQL, args: []any{now, byteSlices(destinations), step}, destinations: destinations}
}

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

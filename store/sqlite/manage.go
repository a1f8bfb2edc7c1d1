package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/steady"
	"github.com/matrixrelay/relay/store/internal/upkeep"
)

var _ store.Managed = (*Store)(nil)

// manageQueries are the statements of store.Managed that only read.
type manageQueries struct{ list, sendersOfHalf, sendersOf, recipients *sql.Stmt }

func (q *manageQueries) preparations() []preparation {
	return []preparation{
		{&q.list, `SELECT id, origin, txn, digest, size, coalesce(octet_length(proof), 0) > 0, until` + liveAfter},
		{&q.sendersOfHalf, `SELECT origin, count(*), sum(entries), sum(bytes) AS sum FROM share
			WHERE mailbox NOT IN (SELECT id FROM mailbox WHERE destination >= ? AND destination < ?) = ?
			GROUP BY origin ORDER BY sum DESC, origin LIMIT +?`},
		{&q.sendersOf, `SELECT origin, 1, entries, bytes FROM share
			WHERE mailbox = (SELECT id FROM mailbox WHERE destination = ?) ORDER BY bytes DESC, origin LIMIT +?`},
		{&q.recipients, `SELECT destination FROM mailbox CROSS JOIN share ON share.mailbox = mailbox.id AND share.origin = ?
			WHERE destination >= ? AND destination < ? ORDER BY destination LIMIT +?`},
	}
}

// List implements store.Managed.
func (s *Store) List(ctx context.Context, destination spec.ServerName, after int64, limit int) ([]store.Listed, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	page := []store.Listed{}
	err := s.reader.with(ctx, func(c *readConn) error {
		now := c.clock.Now()
		return readRows(c.manage.list, func(rows *sql.Rows) error {
			var digest []byte
			var until int64
			var l store.Listed
			if err := rows.Scan(&l.ID, &l.Origin, &l.TransactionID, &digest, &l.Size, &l.Proven, &until); err != nil {
				return err
			}
			copy(l.Digest[:], digest)
			l.Lifetime = steady.Left(now, until)
			page = append(page, l)
			return nil
		}, string(destination), after, now, max(limit, 1))
	})
	if err != nil {
		return nil, s.closedOr(wrap("list", err))
	}
	return page, nil
}

// Senders implements store.Managed. For a half it goes through the shares of all origins.
func (s *Store) Senders(ctx context.Context, destination spec.ServerName, limit int) ([]store.Sender, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	senders := []store.Sender{}
	err := s.reader.with(ctx, func(c *readConn) error {
		list, args := c.manage.sendersOf, []any{string(destination)}
		if destination == "" || destination == store.PrivateHalf {
			list, args = c.manage.sendersOfHalf, []any{private, afterPrivate, destination == ""}
		}
		return readRows(list, func(rows *sql.Rows) error {
			var sender store.Sender
			err := rows.Scan(&sender.Origin, &sender.Mailboxes, &sender.Entries, &sender.Bytes)
			senders = append(senders, sender)
			return err
		}, append(args, max(limit, 1))...)
	})
	if err != nil {
		return nil, s.closedOr(wrap("senders", err))
	}
	return senders, nil
}

// Recipients implements store.Managed. It looks into each mailbox's shares.
func (s *Store) Recipients(ctx context.Context, origin, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	names, limit := []spec.ServerName{}, max(limit, 1)
	err := s.reader.with(ctx, func(c *readConn) error {
		for _, span := range spansAfter(after) {
			more, err := column[spec.ServerName](c.manage.recipients, string(origin), span.from, span.to, limit-len(names))
			if err != nil {
				return err
			}
			names = append(names, more...)
		}
		return nil
	})
	if err != nil {
		return nil, s.closedOr(wrap("recipients", err))
	}
	return names, nil
}

// Remove implements store.Managed, in steps with other writes in between.
func (s *Store) Remove(ctx context.Context, destination spec.ServerName, ids []int64) (removed int, err error) {
	ids = slices.Sorted(slices.Values(ids)) // it may be read after an early return, too
	return upkeep.Steps(func() (int, bool, error) {
		step := removeJob{destination: destination, ids: ids[:min(len(ids), sweepStep)]}
		if err := s.writer.do(ctx, step.run, 0); err != nil { // it may run yet
			return 0, false, err
		}
		ids = ids[step.done:]
		return step.removed, len(ids) > 0, nil
	})
}

// A removeJob removes entries of a mailbox: the first of these IDs.
type removeJob struct {
	destination   spec.ServerName
	ids           []int64
	done, removed int
}

func (j *removeJob) run(b *batch) error {
	j.done, j.removed = min(len(j.ids), b.step()), 0 // it may run again
	m, err := b.mailbox(j.destination)
	if err != nil || m.id == 0 {
		return err
	}
	mine := func(r *entryRow) bool { return r.mailbox == m.id }
	for _, id := range j.ids[:j.done] {
		isLive, err := b.isLive(m.id, id)
		if err == nil && isLive {
			err = j.retire(b, id, mine)
			b.written += rowCost
		}
		if err != nil {
			return fmt.Errorf("remove entry %d: %w", id, err)
		}
	}
	return nil
}

// retire removes an entry, or sets it aside if it can't be read, which may not have been
// noticed yet.
func (j *removeJob) retire(b *batch, id int64, mine func(*entryRow) bool) error {
	err := b.retire(id, mine)
	if errors.Is(err, errDamaged) {
		aside := setAsideJob{destination: j.destination, id: id}
		return aside.run(b)
	}
	if err == nil {
		j.removed++
	}
	return err
}

// isLive reports whether there is an entry with that ID in a mailbox.
func (b *batch) isLive(mailboxID, id int64) (bool, error) {
	var in, state int64
	err := b.sql.place.QueryRow(id).Scan(&in, &state)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return in == mailboxID && state == live, err
}

package postgres

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/steady"
	"github.com/matrixrelay/relay/store/internal/upkeep"
)

var _ store.Managed = (*Store)(nil)

// The statements of store.Managed. Senders of a half go through the whole tables.
const (
	listSQL      = `SELECT id, origin, txn, digest, size, octet_length(proof) > 0, until` + liveRows
	sendersOfSQL = `SELECT origin, 1::bigint, entries, bytes FROM {s}.share
		WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $1) AND entries > 0 ORDER BY bytes DESC, origin LIMIT $2`
	sendersOfHalfSQL = `SELECT s.origin, count(*), sum(s.entries)::bigint, sum(s.bytes)::bigint
		FROM {s}.share s JOIN {s}.mailbox m ON m.id = s.mailbox
		WHERE (substr(m.destination, 1, 1) = '\x7e') = $1 AND s.entries > 0 GROUP BY s.origin ORDER BY 4 DESC, 1 LIMIT $2`
	recipientsSQL = `SELECT destination FROM {s}.mailbox m,
		LATERAL (SELECT FROM {s}.share WHERE mailbox = m.id AND origin = $3 AND entries > 0 LIMIT 1) s
		WHERE destination >= $1 ORDER BY destination LIMIT $2`
	removeSQL = `WITH dead AS (DELETE FROM {s}.entry WHERE ctid = ANY(ARRAY(SELECT e.ctid FROM unnest($3::bigint[]) d(id), LATERAL
			(SELECT ctid FROM {s}.entry WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $2) AND id = d.id LIMIT 1) e))
		AND mailbox + 0 = (SELECT id FROM {s}.mailbox WHERE destination = $2) AND id + 0 = ANY($3::bigint[]) AND state = 0` + remembered
)

// List implements store.Managed.
func (s *Store) List(ctx context.Context, destination spec.ServerName, after int64, limit int) ([]store.Listed, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	page, now := []store.Listed{}, s.clock.Now()
	err := s.reader.query(ctx, "list", func(rows pgx.Rows) (err error) {
		page, err = pgx.AppendRows(page, rows, func(row pgx.CollectableRow) (store.Listed, error) { return scanListed(row, now) })
		return err
	}, listSQL, []byte(destination), after, now, max(limit, 1))
	if err != nil {
		return nil, s.closedOr(ctx, err)
	}
	return page, nil
}

func scanListed(row pgx.CollectableRow, now int64) (l store.Listed, err error) {
	var origin, txn, digest []byte
	var until int64
	err = row.Scan(&l.ID, &origin, &txn, &digest, &l.Size, &l.Proven, &until)
	l.Origin, l.TransactionID = spec.ServerName(origin), gomatrixserverlib.TransactionID(txn)
	copy(l.Digest[:], digest)
	l.Lifetime = steady.Left(now, until)
	return l, err
}

// Senders implements store.Managed.
func (s *Store) Senders(ctx context.Context, destination spec.ServerName, limit int) ([]store.Sender, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	plan, sql, of := byIndexSQL, sendersOfSQL, any([]byte(destination))
	if destination == "" || destination == store.PrivateHalf {
		plan, sql, of = byTableSQL, sendersOfHalfSQL, destination == store.PrivateHalf
	}
	senders := []store.Sender{}
	err := s.reader.queryAs(ctx, plan, "senders", func(rows pgx.Rows) (err error) {
		senders, err = pgx.AppendRows(senders, rows, func(row pgx.CollectableRow) (sender store.Sender, err error) {
			var origin []byte
			err = row.Scan(&origin, &sender.Mailboxes, &sender.Entries, &sender.Bytes)
			sender.Origin = spec.ServerName(origin)
			return sender, err
		})
		return err
	}, sql, of, max(limit, 1))
	if err != nil {
		return nil, s.closedOr(ctx, err)
	}
	return senders, nil
}

// Recipients implements store.Managed. It looks into each mailbox's shares.
func (s *Store) Recipients(ctx context.Context, origin, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	names, err := inHalf(after, max(limit, 1), func(first spec.ServerName, limit int) ([]spec.ServerName, error) {
		return s.reader.names(ctx, "recipients", recipientsSQL, []byte(first), limit, []byte(origin))
	})
	return names, s.closedOr(ctx, err)
}

// Remove implements store.Managed, in steps with other writes in between. The number
// may be too small when the connection was lost meanwhile.
func (s *Store) Remove(ctx context.Context, destination spec.ServerName, ids []int64) (removed int, err error) {
	ids = slices.Sorted(slices.Values(ids)) // it may be read after an early return, too
	return upkeep.Steps(func() (int, bool, error) {
		some := ids[:min(len(ids), step)]
		r := removalOf(destination, "remove", removeSQL, some)
		err := s.writer.queue.Do(ctx, r, 0)
		if isDamage(err) {
			removed, err := s.removePlaces(ctx, destination, ids, err)
			return removed, false, err
		}
		if err != nil { // it may run yet
			return 0, false, err
		}
		ids = ids[len(some):]
		return r.removed, len(ids) > 0, nil
	})
}

// removePlaces removes without an index.
func (s *Store) removePlaces(ctx context.Context, destination spec.ServerName, ids []int64, why error) (removed int, err error) {
	found, err := s.reader.places(ctx, destination, 0, why)
	if err != nil {
		return 0, err
	}
	found = slices.DeleteFunc(found, func(p spot) bool { return !slices.Contains(ids, p.id) })
	return s.buryPlaces(ctx, destination, found)
}

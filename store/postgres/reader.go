package postgres

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/aside"
	"github.com/matrixrelay/relay/store/internal/seal"
	"github.com/matrixrelay/relay/store/internal/steady"
)

// page is how many entries one query reads at most.
const page = 256

// A reader reads beside the writers.
type reader struct {
	pool   *pgxpool.Pool
	schema schema
	clock  *steady.Clock
	log    *slog.Logger
	turns  chan struct{} // full while as many read as may

	mu   sync.Mutex
	said time.Time // that something is damaged
}

func newReader(s *Store, atOnce int) *reader {
	return &reader{pool: s.pool, schema: s.schema(), clock: s.clock, log: s.options.Logger, turns: make(chan struct{}, max(atOnce, 1))}
}

func args(q aside.Query, now int64) []any {
	return []any{[]byte(q.Destination), q.After, now, q.Entries}
}

// query does one statement in one round trip. Scan reads the rows; it may leave
// out the last ones and needn't ask for their error.
func (r *reader) query(ctx context.Context, doing string, scan func(pgx.Rows) error, sql string, args ...any) error {
	return r.queryAs(ctx, byIndexSQL, doing, scan, sql, args...)
}

// queryAs is query with settings for the server's plans.
func (r *reader) queryAs(ctx context.Context, settings, doing string, scan func(pgx.Rows) error, sql string, args ...any) error {
	select {
	case r.turns <- struct{}{}:
		defer func() { <-r.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTime) // Close waits for it
	defer cancel()
	q := &pgx.Batch{}
	q.Queue(settings)
	q.Queue(r.schema.sql(sql), args...).Query(scan)
	if err := r.pool.SendBatch(ctx, q).Close(); err != nil {
		return wrap(doing, err)
	}
	return nil
}

// next returns the entries that can be read, and those that can't among them.
// It reads on where a page ends.
func (r *reader) next(ctx context.Context, q aside.Query) (entries []store.Entry, damaged []aside.Damage, err error) {
	for more := true; more; {
		part := q
		part.Entries = min(q.Entries, page)
		found, bad, err := r.page(ctx, part)
		if err != nil {
			return nil, nil, err
		}
		read := len(found) + len(bad)
		more = read == part.Entries && q.Entries > read
		damaged = append(damaged, bad...)
		for _, e := range found {
			q.After = max(q.After, e.ID)
			if q.Bytes -= e.Size(); q.Bytes < 0 && len(entries) > 0 {
				return entries, damaged, nil
			}
			entries = append(entries, e)
		}
		for _, d := range bad {
			q.After = max(q.After, d.ID)
		}
		q.Entries -= read
	}
	return entries, damaged, nil
}

func (r *reader) page(ctx context.Context, q aside.Query) (entries []store.Entry, damaged []aside.Damage, err error) {
	entries, damaged, err = r.scan(ctx, q)
	if isDamage(err) {
		return r.scanEach(ctx, q)
	}
	return entries, damaged, err
}

// scan reads entries with one query. The server leaves out entries that go over the
// bytes that were asked for.
func (r *reader) scan(ctx context.Context, q aside.Query) (entries []store.Entry, damaged []aside.Damage, err error) {
	now := r.clock.Now()
	err = r.query(ctx, "next", func(rows pgx.Rows) error {
		for rows.Next() {
			e, err := scanEntry(q.Destination, now, rows)
			if err != nil {
				damaged = append(damaged, aside.Damage{ID: e.ID, Err: err})
				continue
			}
			entries = append(entries, e)
		}
		return nil
	}, nextSQL, append(args(q, now), q.Bytes)...)
	if err != nil {
		return nil, nil, err
	}
	return entries, damaged, nil
}

// scanEach reads entries one at a time, to find out which of them the server
// can't read.
func (r *reader) scanEach(ctx context.Context, q aside.Query) (entries []store.Entry, damaged []aside.Damage, err error) {
	read := func(p spot) (store.Entry, error) {
		return r.entry(ctx, q.Destination, entrySQL, []byte(q.Destination), p.id)
	}
	ids, err := r.liveByIndex(ctx, q)
	places := make([]spot, len(ids))
	for i, id := range ids {
		places[i].id = id
	}
	if isDamage(err) {
		read = func(p spot) (store.Entry, error) { return r.entryAt(ctx, q.Destination, p) }
		places, err = r.livePlaces(ctx, q, err)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, p := range places {
		e, err := read(p)
		switch {
		case errors.Is(err, pgx.ErrNoRows): // acknowledged meanwhile
			continue
		case errors.Is(err, errChecksum), isDamage(err):
			damaged = append(damaged, aside.Damage{ID: p.id, Err: err})
			continue
		case err != nil:
			return nil, nil, err
		}
		if q.Bytes -= e.Size(); q.Bytes < 0 && len(entries) > 0 {
			break
		}
		entries = append(entries, e)
	}
	return entries, damaged, nil
}

// entry reads the entry of a destination that a statement finds by these
// arguments.
func (r *reader) entry(ctx context.Context, destination spec.ServerName, sql string, args ...any) (e store.Entry, err error) {
	none := true
	err = r.query(ctx, "next", func(rows pgx.Rows) (err error) {
		for rows.Next() {
			none = false
			e, err = scanEntry(destination, r.clock.Now(), rows)
		}
		return err
	}, sql, args...)
	if err == nil && none {
		err = pgx.ErrNoRows
	}
	return e, err
}

// live returns IDs without reading the bodies of the entries.
func (r *reader) live(ctx context.Context, q aside.Query) (ids []int64, err error) {
	ids, err = r.liveByIndex(ctx, q)
	if !isDamage(err) {
		return ids, err
	}
	places, err := r.livePlaces(ctx, q, err)
	for _, p := range places {
		ids = append(ids, p.id)
	}
	return ids, err
}

func (r *reader) liveByIndex(ctx context.Context, q aside.Query) (ids []int64, err error) {
	err = r.query(ctx, "next", func(rows pgx.Rows) (err error) {
		ids, err = pgx.AppendRows(ids, rows, pgx.RowTo[int64])
		return err
	}, liveSQL, args(q, r.clock.Now())...)
	return ids, err
}

var errChecksum = errors.New("the row isn't as it was written")

// scanEntry reads a row of entryColumns and checks that it is as it was written
// for that destination. The ID is set even if the rest is damaged.
func scanEntry(destination spec.ServerName, now int64, row pgx.Row) (store.Entry, error) {
	var e store.Entry
	var key, origin, txn, digest []byte
	var until, sum, size int64
	if err := row.Scan(&e.ID, &key, &origin, &txn, &digest, &until, &sum, &size, &e.Proof, &e.Body); err != nil {
		return e, err
	}
	e.Destination, e.Origin, e.TransactionID = destination, spec.ServerName(origin), gomatrixserverlib.TransactionID(txn)
	copy(e.Digest[:], digest)
	want := seal.KeyOf(&e.Mail)
	if !bytes.Equal(key, want[:]) || size != e.Size() || sum != seal.Checksum(until, e.Body, e.Proof) {
		return e, errChecksum
	}
	e.Lifetime = steady.Left(now, until)
	return e, nil
}

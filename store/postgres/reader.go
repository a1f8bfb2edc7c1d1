package postgres

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// page is how many entries one query reads at most.
const page = 256

// A reader reads beside those who write.
type reader struct {
	pool   *pgxpool.Pool
	schema schema

	mu     sync.Mutex
	passed map[int64]struct{} // entries that are set aside, or should be
}

// A query is what Next was asked for.
type query struct {
	destination spec.ServerName
	after       int64
	entries     int
	bytes       int64
}

func (q query) args() []any {
	return []any{[]byte(q.destination), q.after, time.Now().UnixMilli(), q.entries}
}

// damage is an entry that can't be read.
type damage struct {
	id  int64
	err error
}

// next returns the entries that can be read, and those that can't among them.
// It reads on where a page ends.
func (r *reader) next(ctx context.Context, q query) (entries []store.Entry, damaged []damage, err error) {
	for more := true; more; {
		part := q
		part.entries = min(q.entries, page)
		found, bad, err := r.page(ctx, part)
		if err != nil {
			return nil, nil, err
		}
		read := len(found) + len(bad)
		more = read == part.entries && q.entries > read
		damaged = append(damaged, bad...)
		for _, e := range found {
			q.after = max(q.after, e.ID)
			if q.bytes -= e.Size(); q.bytes < 0 && len(entries) > 0 {
				return entries, damaged, nil
			}
			entries = append(entries, e)
		}
		for _, d := range bad {
			q.after = max(q.after, d.id)
		}
		q.entries -= read
	}
	return entries, damaged, nil
}

func (r *reader) page(ctx context.Context, q query) (entries []store.Entry, damaged []damage, err error) {
	entries, damaged, err = r.scan(ctx, q)
	if isDamage(err) {
		return r.scanEach(ctx, q)
	}
	return entries, damaged, err
}

// scan reads entries with one query. The server leaves out what has more bytes
// together than were asked for.
func (r *reader) scan(ctx context.Context, q query) (entries []store.Entry, damaged []damage, err error) {
	rows, err := r.pool.Query(ctx, r.schema.sql(nextSQL), append(q.args(), q.bytes)...)
	if err != nil {
		return nil, nil, wrap("next", err)
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scanEntry(q.destination, rows)
		if err != nil {
			damaged = append(damaged, damage{e.ID, err})
			continue
		}
		entries = append(entries, e)
	}
	if err := rows.Err(); err != nil {
		return nil, nil, wrap("next", err)
	}
	return entries, damaged, nil
}

// scanEach reads entries one at a time, to find out which of them the server
// can't read.
func (r *reader) scanEach(ctx context.Context, q query) (entries []store.Entry, damaged []damage, err error) {
	ids, err := r.live(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		e, err := scanEntry(q.destination, r.pool.QueryRow(ctx, r.schema.sql(entrySQL), []byte(q.destination), id))
		switch {
		case errors.Is(err, pgx.ErrNoRows): // acknowledged meanwhile
			continue
		case errors.Is(err, errChecksum), isDamage(err):
			damaged = append(damaged, damage{id, err})
			continue
		case err != nil:
			return nil, nil, wrap("next", err)
		}
		if q.bytes -= e.Size(); q.bytes < 0 && len(entries) > 0 {
			break
		}
		entries = append(entries, e)
	}
	return entries, damaged, nil
}

// live returns IDs without reading the bodies of the entries.
func (r *reader) live(ctx context.Context, q query) ([]int64, error) {
	rows, err := r.pool.Query(ctx, r.schema.sql(liveSQL), q.args()...)
	if err != nil {
		return nil, wrap("next", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, wrap("next", err)
	}
	return ids, nil
}

var errChecksum = errors.New("the row isn't what was written")

// scanEntry reads a row of entryColumns and checks that it is what was written
// for that destination. The ID is set even if the rest is damaged.
func scanEntry(destination spec.ServerName, row pgx.Row) (store.Entry, error) {
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
	e.Expires = seal.Expires(until)
	return e, nil
}

// passOver makes sure that an entry isn't waited for, and reports whether it
// is new that it can't be read.
func (r *reader) passOver(id int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.passed[id]
	r.passed[id] = struct{}{}
	return !known
}

// lookAgain undoes passOver.
func (r *reader) lookAgain(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.passed, id)
}

// any returns nil if the destination has an entry after that ID, ErrEmpty if
// not.
func (r *reader) any(ctx context.Context, destination spec.ServerName, after int64) error {
	r.mu.Lock()
	passed := maps.Clone(r.passed)
	r.mu.Unlock()
	ids, err := r.live(ctx, query{destination: destination, after: after, entries: len(passed) + 1})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, ok := passed[id]; !ok {
			return nil
		}
	}
	return store.ErrEmpty
}

func (r *reader) destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	rows, err := r.pool.Query(ctx, r.schema.sql(destinationsSQL), []byte(after), limit)
	if err != nil {
		return nil, wrap("destinations", err)
	}
	names, err := pgx.AppendRows([]spec.ServerName{}, rows, rowToName)
	if err != nil {
		return nil, wrap("destinations", err)
	}
	return names, nil
}

func rowToName(row pgx.CollectableRow) (spec.ServerName, error) {
	name, err := pgx.RowTo[[]byte](row)
	return spec.ServerName(name), err
}

// expired returns destinations that have mail that has expired, those of the
// oldest such mail.
func expired(ctx context.Context, pool *pgxpool.Pool, s schema) ([]spec.ServerName, error) {
	rows, err := pool.Query(ctx, s.sql(expiredSQL), time.Now().UnixMilli(), step)
	if err != nil {
		return nil, wrap("expired", err)
	}
	names, err := pgx.CollectRows(rows, rowToName)
	if err != nil {
		return nil, wrap("expired", err)
	}
	return names, nil
}

func (r *reader) usage(ctx context.Context, destination spec.ServerName) (store.Usage, error) {
	statement, args := totalSQL, []any(nil)
	if destination != "" {
		statement, args = usageSQL, []any{[]byte(destination)}
	}
	var u store.Usage
	err := r.pool.QueryRow(ctx, r.schema.sql(statement), args...).Scan(&u.Entries, &u.Bytes, &u.SetAside)
	if errors.Is(err, pgx.ErrNoRows) { // no mailbox: nothing in it
		return store.Usage{}, nil
	}
	if err != nil {
		return store.Usage{}, wrap("usage", err)
	}
	return u, nil
}

package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/aside"
	"github.com/matrixrelay/relay/store/internal/seal"
	"github.com/matrixrelay/relay/store/internal/steady"
)

// maxReaders is how many reads run at once; others wait. Each has a connection
// with a cache of its own.
const maxReaders = 4

// A reader reads beside the writer, which WAL mode lets it do.
type reader struct {
	conns  chan *readConn
	opened int
	closed chan struct{}
	clock  *steady.Clock
}

// A readConn is a connection and what is read on it. A read is short and isn't
// interrupted: the driver would give the connection up.
type readConn struct {
	conn  *sql.Conn
	clock *steady.Clock

	next, ids, row, destinations, usage, total, notes *sql.Stmt
}

const entryColumns = `id, copy_key, origin, txn, digest, until, checksum, proof, body`

const liveAfter = ` FROM entry INDEXED BY entry_live
	WHERE mailbox = (SELECT id FROM mailbox WHERE destination = ?) AND state = 0 AND id > ? AND until > ?
	ORDER BY id LIMIT ?`

func newReader(ctx context.Context, db *sql.DB, clock *steady.Clock) (*reader, error) {
	r := &reader{conns: make(chan *readConn, maxReaders), closed: make(chan struct{}), clock: clock}
	for range maxReaders {
		c, err := newReadConn(ctx, db, clock)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		r.conns <- c
		r.opened++
	}
	return r, nil
}

func newReadConn(ctx context.Context, db *sql.DB, clock *steady.Clock) (*readConn, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	c := &readConn{conn: conn, clock: clock}
	if err := c.setUp(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *readConn) close() error {
	return errors.Join(closeAll(c.list()), c.conn.Close())
}

func (c *readConn) setUp(ctx context.Context) error {
	if err := prepareConn(ctx, c.conn); err != nil {
		return err
	}
	if _, err := c.conn.ExecContext(ctx, "PRAGMA query_only = 1"); err != nil {
		return err
	}
	return prepareAll(ctx, c.conn, c.list())
}

func (c *readConn) list() []preparation {
	return []preparation{
		{&c.next, `SELECT ` + entryColumns + liveAfter},
		{&c.ids, `SELECT id` + liveAfter},
		{&c.row, `SELECT ` + entryColumns + ` FROM entry WHERE id = ?`},
		{&c.destinations, `SELECT destination FROM mailbox
			WHERE destination >= ? AND destination < ? AND entries > 0 ORDER BY destination LIMIT ?`},
		{&c.usage, `SELECT entries, bytes, set_aside FROM mailbox WHERE destination = ?`},
		{&c.total, totalSQL},
		{&c.notes, `SELECT key, value FROM note WHERE key > ? AND key >= ? ORDER BY key LIMIT ?`},
	}
}

// close waits for the reads under way.
func (r *reader) close() error {
	close(r.closed)
	var errs []error
	for range r.opened {
		errs = append(errs, (<-r.conns).close())
	}
	return errors.Join(errs...)
}

// pause waits for the reads under way and keeps others from beginning.
func (r *reader) pause() (resume func()) {
	paused := make([]*readConn, r.opened)
	for i := range paused {
		paused[i] = <-r.conns
	}
	return func() {
		for _, c := range paused {
			r.conns <- c
		}
	}
}

// with runs f on a connection that is free, or becomes so before ctx ends.
func (r *reader) with(ctx context.Context, f func(*readConn) error) error {
	select {
	case c := <-r.conns:
		defer func() { r.conns <- c }()
		return f(c)
	case <-r.closed:
		return store.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// next returns the entries that can be read, and those that can't among them.
func (r *reader) next(ctx context.Context, q aside.Query) (entries []store.Entry, damaged []aside.Damage, err error) {
	err = r.with(ctx, func(c *readConn) error {
		entries, damaged, err = c.scan(q)
		if _, ok := errors.AsType[*damagedRow](err); ok || isDamage(err) {
			entries, damaged, err = c.scanEach(q)
		}
		return err
	})
	return entries, damaged, err
}

// scan reads entries with one query.
func (c *readConn) scan(q aside.Query) (entries []store.Entry, damaged []aside.Damage, err error) {
	rows, err := c.next.Query(string(q.Destination), q.After, c.clock.Now(), q.Entries)
	if err != nil {
		return nil, nil, wrap("next", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var size int64
	for last := q.After; rows.Next(); {
		e, err := c.scanEntry(q.Destination, rows.Scan)
		if e.ID <= last {
			return nil, nil, wrap("next", &damagedRow{e.ID, errOrder})
		}
		last = e.ID
		if err != nil {
			damaged = append(damaged, aside.Damage{ID: e.ID, Err: err})
			continue
		}
		if size += e.Size(); size > q.Bytes && len(entries) > 0 {
			return entries, damaged, nil
		}
		entries = append(entries, e)
	}
	if err := rows.Err(); err != nil {
		return nil, nil, wrap("next", err)
	}
	return entries, damaged, nil
}

// scanEach reads entries one at a time, to find out which of them SQLite can't
// read.
func (c *readConn) scanEach(q aside.Query) (entries []store.Entry, damaged []aside.Damage, err error) {
	ids, err := c.liveIDs(q)
	if err != nil {
		return nil, nil, err
	}
	var size int64
	for _, id := range ids {
		e, err := c.scanEntry(q.Destination, c.row.QueryRow(id).Scan)
		if errors.Is(err, sql.ErrNoRows) { // acknowledged meanwhile
			continue
		}
		if code(err) != 0 && !isDamage(err) {
			return nil, nil, wrap("next", err)
		}
		if err != nil {
			damaged = append(damaged, aside.Damage{ID: id, Err: err})
			continue
		}
		if size += e.Size(); size > q.Bytes && len(entries) > 0 {
			break
		}
		entries = append(entries, e)
	}
	return entries, damaged, nil
}

func (c *readConn) liveIDs(q aside.Query) (ids []int64, err error) {
	rows, err := c.ids.Query(string(q.Destination), q.After, c.clock.Now(), q.Entries)
	if err != nil {
		return nil, wrap("next", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, wrap("next", err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, wrap("next", err)
	}
	return ids, nil
}

var (
	errChecksum = errors.New("the row isn't what was written")
	errOrder    = errors.New("the order of the entries is broken")
)

// scanEntry reads a row of entryColumns and checks that it is what was written
// for that destination. The ID is set even if the rest is damaged.
func (c *readConn) scanEntry(destination spec.ServerName, scan func(...any) error) (store.Entry, error) {
	var e store.Entry
	var key, digest []byte
	var until, sum int64
	err := scan(&e.ID, &key, &e.Origin, &e.TransactionID, &digest, &until, &sum, &e.Proof, &e.Body)
	if err != nil {
		return e, err
	}
	e.Destination = destination
	copy(e.Digest[:], digest)
	want := seal.KeyOf(&e.Mail)
	if !bytes.Equal(key, want[:]) || sum != seal.Checksum(until, e.Body, e.Proof) {
		return e, errChecksum
	}
	e.Lifetime = steady.Left(c.clock.Now(), until) // not the query's time: the mail may be newer
	return e, nil
}

// live returns IDs without reading the rest of the entries.
func (r *reader) live(ctx context.Context, q aside.Query) (ids []int64, err error) {
	err = r.with(ctx, func(c *readConn) error {
		ids, err = c.liveIDs(q)
		return err
	})
	return ids, err
}

func (r *reader) destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	names := []spec.ServerName{}
	err := r.with(ctx, func(c *readConn) (err error) {
		for _, s := range spansAfter(after) {
			if names, err = c.appendNames(names, s, limit-len(names)); err != nil {
				return wrap("destinations", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}

func (c *readConn) appendNames(names []spec.ServerName, s span, limit int) (_ []spec.ServerName, err error) {
	rows, err := c.destinations.Query(s.from, s.to, limit)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name spec.ServerName
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

func (r *reader) usage(ctx context.Context, destination spec.ServerName) (store.Usage, error) {
	var u store.Usage
	err := r.with(ctx, func(c *readConn) error {
		if destination == "" || destination == store.PrivateHalf {
			var total halves
			err := c.total.QueryRow().Scan(total.scan()...)
			of := total.of(destination)
			u = store.Usage{Entries: of.entries, Bytes: of.bytes, SetAside: of.setAside}
			return err
		}
		err := c.usage.QueryRow(string(destination)).Scan(&u.Entries, &u.Bytes, &u.SetAside)
		if errors.Is(err, sql.ErrNoRows) { // no mailbox: nothing in it
			return nil
		}
		return err
	})
	if err != nil {
		return store.Usage{}, wrap("usage", err)
	}
	return u, nil
}

package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/aside"
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

	// damaged is called when the database is found to be damaged.
	damaged func(error)
}

// A readConn is a connection for reading and its statements. A read is short and
// isn't interrupted: the driver would give the connection up.
type readConn struct {
	conn  *sql.Conn
	clock *steady.Clock

	next, row, known                                          entryQuery
	room                                                      []store.Entry // where query collects them
	ids, idsInTable, state, destinations, usage, total, notes *sql.Stmt
	manage                                                    manageQueries
}

// liveAfter is how the entries of a mailbox are found: by an index, or without it.
const (
	liveAfter   = ` FROM entry INDEXED BY entry_live ` + whereLive
	liveInTable = ` FROM entry NOT INDEXED ` + whereLive
)

const whereLive = `
	WHERE mailbox = (SELECT id FROM mailbox WHERE destination = ?) AND state = 0 AND id > ? AND until > ?
	ORDER BY id LIMIT +?`

func newReader(ctx context.Context, db *sql.DB, clock *steady.Clock, damaged func(error)) (*reader, error) {
	r := &reader{conns: make(chan *readConn, maxReaders), closed: make(chan struct{}), clock: clock, damaged: damaged}
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
	return errors.Join(closeEntryQueries(c.entryQueries()), closeAll(c.list()), c.conn.Close())
}

func (c *readConn) setUp(ctx context.Context) error {
	if err := prepareConn(ctx, c.conn); err != nil {
		return err
	}
	if _, err := c.conn.ExecContext(ctx, "PRAGMA query_only = 1"); err != nil {
		return err
	}
	return cmp.Or(prepareAll(ctx, c.conn, c.list()), prepareEntryQueries(ctx, c.conn, c.entryQueries()))
}

func (c *readConn) entryQueries() []entryPreparation {
	return []entryPreparation{
		{&c.next, `SELECT ` + rowColumns + liveAfter}, // an index of live ones
		{&c.row, `SELECT ` + moreColumns + ` FROM entry WHERE id = ?`},
		{&c.known, rowSQL + ` WHERE copy_key = ?`},
	}
}

func (c *readConn) list() []preparation {
	return append(c.manage.preparations(), []preparation{
		{&c.idsInTable, `SELECT id` + liveInTable},
		{&c.ids, `SELECT id` + liveAfter},
		{&c.state, `SELECT state, until, destination FROM entry JOIN mailbox ON mailbox.id = mailbox WHERE entry.id = ?`},
		{&c.destinations, `SELECT destination FROM mailbox
			WHERE destination >= ? AND destination < ? AND entries > 0 ORDER BY destination LIMIT +?`},
		{&c.usage, `SELECT entries, bytes, set_aside, last FROM mailbox WHERE destination = ?`},
		{&c.total, totalSQL},
		{&c.notes, `SELECT key, value FROM note WHERE key > ? AND key >= ? ORDER BY key LIMIT +?`},
	}...)
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

// live returns IDs without reading the rest of the entries, and without the index where
// that is damaged.
func (r *reader) live(ctx context.Context, q aside.Query) (ids []int64, err error) {
	err = r.with(ctx, func(c *readConn) error {
		ids, err = c.liveIDs(c.ids, q)
		if isDamage(err) {
			r.damaged(err)
			ids, err = c.liveIDs(c.idsInTable, q)
		}
		return err
	})
	return ids, err
}

func (r *reader) destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	names := []spec.ServerName{}
	err := r.with(ctx, func(c *readConn) error {
		for _, s := range spansAfter(after) {
			more, err := column[spec.ServerName](c.destinations, s.from, s.to, limit-len(names))
			if err != nil {
				return wrap("destinations", err)
			}
			names = append(names, more...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}

func (r *reader) usage(ctx context.Context, destination spec.ServerName) (store.Usage, error) {
	var u store.Usage
	err := r.with(ctx, func(c *readConn) error {
		if destination == "" || destination == store.PrivateHalf {
			var total total
			err := total.read(c.total.QueryRow())
			of := total.of(destination)
			u = store.Usage{Entries: of.entries, Bytes: of.bytes, SetAside: of.setAside}
			return err
		}
		var last int64
		err := c.usage.QueryRow(string(destination)).Scan(&u.Entries, &u.Bytes, &u.SetAside, &last)
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

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/aside"
	"github.com/matrixrelay/relay/store/internal/steady"
)

// errIndex says that the index of live entries is damaged.
var errIndex = fmt.Errorf("%w: the index of live entries doesn't agree with the entries", errDamaged)

// next returns the entries that can be read, and those that can't among them. In
// a damaged database it reads one entry at a time, to find out which of them can
// be read, and goes through the table where the index is no help.
func (r *reader) next(ctx context.Context, q aside.Query) (entries []store.Entry, damaged []aside.Damage, err error) {
	err = r.with(ctx, func(c *readConn) error {
		entries, damaged, err = c.scan(q)
		if !isDamage(err) {
			return err
		}
		r.damaged(err)
		ids, listErr := c.liveIDs(c.ids, q)
		if listErr != nil || errors.Is(err, errIndex) {
			ids, listErr = c.liveIDs(c.idsInTable, q)
		}
		if listErr != nil && len(ids) == 0 {
			return listErr
		}
		entries, damaged, err = c.scanEach(q, ids)
		return err
	})
	return entries, damaged, err
}

// A found is the result of a scan.
type found struct {
	entries []store.Entry
	damaged []aside.Damage
	last    int64   // the last ID of both
	behind  []int64 // entries that were passed over, if they are still there
	isEnd   bool    // there is nothing after last
}

// scan reads entries with one query, and makes sure that it hasn't passed any
// over: a receiver would acknowledge them unseen.
func (c *readConn) scan(q aside.Query) ([]store.Entry, []aside.Damage, error) {
	f, err := c.query(q)
	if err != nil {
		return nil, nil, wrap("next", err)
	}
	for _, id := range f.behind {
		if isThere, err := c.isThere(q.Destination, id); err != nil || isThere {
			return nil, nil, wrap("next", orIndex(err))
		}
	}
	if f.isEnd {
		if err := c.checkEnd(q.Destination, f.last); err != nil {
			return nil, nil, wrap("next", err)
		}
	}
	return f.entries, f.damaged, nil
}

func orIndex(err error) error {
	if err == nil {
		return errIndex
	}
	return err
}

func (c *readConn) query(q aside.Query) (f found, err error) {
	f.last, f.entries = q.After, c.room[:0]
	size, n, isFull := int64(0), 0, false
	err = c.next.each(func(r *entryRow) (more bool, err error) {
		if r.id <= f.last {
			return false, errIndex
		}
		e, err := c.entry(q.Destination, r)
		if size += e.Size(); size > q.Bytes && len(f.entries) > 0 && err == nil {
			isFull = true
			return false, nil
		}
		f.add(r, e, err)
		n++
		return true, nil
	}, string(q.Destination), q.After, c.clock.Now(), int64(q.Entries))
	f.isEnd = !isFull && n < q.Entries
	c.room, f.entries = f.entries, slices.Clone(f.entries)
	clear(c.room)
	return f, err
}

// add takes the next row, and the entry or the reason why it isn't one.
func (f *found) add(r *entryRow, e store.Entry, err error) {
	if err != nil {
		f.damaged = append(f.damaged, aside.Damage{ID: r.id, Err: err})
	} else {
		f.entries = append(f.entries, e)
		if r.prev != nil && *r.prev > f.last {
			f.behind = append(f.behind, *r.prev)
		}
	}
	f.last = r.id
}

// isThere reports whether an entry is in a mailbox and hasn't expired.
func (c *readConn) isThere(destination spec.ServerName, id int64) (bool, error) {
	var state, until int64
	var of spec.ServerName
	err := c.state.QueryRow(id).Scan(&state, &until, &of)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return state == live && until > c.clock.Now() && of == destination, err
}

// checkEnd makes sure that a mailbox has nothing after that ID. Mail that comes
// meanwhile is no damage: only if the index doesn't list it even then.
func (c *readConn) checkEnd(destination spec.ServerName, after int64) error {
	var u store.Usage
	var last int64
	err := c.usage.QueryRow(string(destination)).Scan(&u.Entries, &u.Bytes, &u.SetAside, &last)
	if errors.Is(err, sql.ErrNoRows) || err == nil && last <= after {
		return nil
	} else if err != nil {
		return err
	}
	for range 2 {
		if isThere, err := c.isThere(destination, last); err != nil || !isThere {
			return err
		}
		ids, err := c.liveIDs(c.ids, aside.Query{Destination: destination, After: after, Entries: 1})
		if err != nil || len(ids) > 0 {
			return err
		}
	}
	return errIndex
}

// scanEach reads entries one at a time.
func (c *readConn) scanEach(q aside.Query, ids []int64) (entries []store.Entry, damaged []aside.Damage, err error) {
	var size int64
	for _, id := range ids {
		r, err := c.row.byID(id)
		if errors.Is(err, sql.ErrNoRows) { // acknowledged meanwhile, or nowhere
			continue
		}
		if err != nil && !isDamage(err) {
			return nil, nil, wrap("next", err)
		}
		var e store.Entry
		if err == nil {
			e, err = c.entry(q.Destination, r)
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

// liveIDs lists with one of two statements. After an error it returns those that
// it got.
func (c *readConn) liveIDs(list *sql.Stmt, q aside.Query) ([]int64, error) {
	ids, err := column[int64](list, string(q.Destination), q.After, c.clock.Now(), q.Entries)
	if err != nil {
		err = wrap("next", err)
	}
	return ids, err
}

// entry returns the mail in a row, if it is as it was written for the destination.
func (c *readConn) entry(destination spec.ServerName, r *entryRow) (store.Entry, error) {
	r.mail.Destination = destination
	if r.state != live || !r.isProven() {
		return store.Entry{}, errChecksum
	}
	e := store.Entry{ID: r.id, Mail: r.mail}
	e.Lifetime = steady.Left(c.clock.Now(), r.until) // not the query's time: the mail may be newer
	return e, nil
}

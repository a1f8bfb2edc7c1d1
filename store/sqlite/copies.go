package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store/internal/copies"
)

// remembered are the rows that are gone. The ledger lists those of the time since the
// store was opened; of the others only the number is known.
type remembered struct {
	limits copies.Limits
	listed *copies.Ledger[int64] // their IDs
	rows   int64                 // all of them
	added  int                   // in this batch
}

// add lists an entry that has just become one.
func (r *remembered) add(origin spec.ServerName, id, until int64) {
	if r.limits.AreAny() {
		r.listed.Add(origin, id, until)
	}
	r.rows++
	r.added++
}

// unlist begins a new ledger, after a commit that failed.
func (r *remembered) unlist() { r.listed = copies.New[int64](r.limits) }

// countCopies counts the rows of a database that is opened.
func (w *writer) countCopies(ctx context.Context) error {
	w.copies.limits = copies.LimitsOf(w.options.MaxCopies, w.options.MaxCopiesOfOrigin)
	w.copies.unlist()
	const query = `SELECT count(*) FROM entry INDEXED BY entry_until WHERE state = ?`
	if err := w.conn.QueryRowContext(ctx, query, gone).Scan(&w.copies.rows); err != nil {
		return fmt.Errorf("count copies: %w", err)
	}
	w.countedCopies.Store(w.copies.rows)
	return nil
}

// keepCopies takes over the counts of a batch that is committed.
func (w *writer) keepCopies(counted remembered) {
	counted.added = 0
	w.copies = counted
	w.countedCopies.Store(counted.rows)
}

// hasTooMany reports whether more must be forgotten than this batch will.
func (b *batch) hasTooMany() (more bool, err error) {
	return b.copies.rows-sweepStep > b.copies.limits.All, nil
}

// forgetMore forgets as many rows as there are too many: as many as the batch has added,
// and a step of others.
func (b *batch) forgetMore() error {
	unlisted := 0
	for range b.copies.added + b.step() {
		others := b.copies.rows - b.copies.listed.Count() - int64(unlisted)
		id, isListed, isOver := b.copies.listed.Over(others)
		switch {
		case !isOver:
			return b.forgetOldest(unlisted)
		case !isListed:
			unlisted++
			continue
		}
		b.written += rowCost
		if err := b.forgetCopy(id, math.MaxInt64); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("forget: %w", err)
		}
	}
	return b.forgetOldest(unlisted)
}

// forgetOldest forgets so many of all rows.
func (b *batch) forgetOldest(n int) error {
	if n == 0 {
		return nil
	}
	_, _, err := b.each(n, func(id int64) error { return b.forgetCopy(id, math.MaxInt64) }, b.sql.expired, gone, int64(math.MaxInt64))
	return err
}

// forgetCopy drops a row that recognises copies, and that is over by then.
func (b *batch) forgetCopy(id, by int64) error {
	r, err := b.sql.entry.byID(id)
	if err != nil {
		return err
	}
	if !r.isGoneRow() || r.until > by {
		return fmt.Errorf("%w: %w", errDamaged, errChecksum)
	}
	b.copies.rows--
	_, err = b.sql.forget.Exec(id)
	return err
}

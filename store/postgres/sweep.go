package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// sweepAll removes mail that is over. Several processes that do so are in nobody's
// way: they wait for the mailboxes in the same order, and pass over other rows
// that are locked.
func (s *Store) sweepAll(ctx context.Context) error {
	return errors.Join(s.tick(ctx), s.sweepExpired(ctx), s.sweepGone(ctx), s.sweepCopies(ctx), s.sweepMailboxes(ctx))
}

// tick writes where the store's clock stands, and brings it to where it stands
// in other processes.
func (s *Store) tick(ctx context.Context) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		var at int64
		err := tx.QueryRow(ctx, s.schema().sql(tickSQL), s.clock.Now()).Scan(&at)
		s.clock.Raise(at)
		return err
	})
}

// saveClock has the clock go on at the next opening where it stands.
func (s *Store) saveClock() {
	ctx, cancel := context.WithTimeout(context.Background(), connectTime)
	defer cancel()
	if err := s.tick(ctx); err != nil {
		s.options.Logger.Warn("postgres: the clock goes back by a minute at most", "error", err)
	}
}

// sweepExpired removes expired mail, step by step, with other writes in
// between.
func (s *Store) sweepExpired(ctx context.Context) error {
	for {
		names, err := s.reader.expired(ctx)
		if err != nil || len(names) == 0 {
			return err
		}
		e := expiryOf(names, s.clock.Now())
		if err := s.writer.queue.Do(ctx, e, 0); err != nil {
			return err
		}
		if e.removed == 0 { // somebody else does it
			return nil
		}
	}
}

// change does something that counts nothing, so that it needs no lock.
func (s *Store) change(ctx context.Context, do func(pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	return pgx.BeginTxFunc(ctx, s.pool, txOptions, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, byIndexSQL); err != nil {
			return err
		}
		return do(tx)
	})
}

// sweep does one statement in a transaction, and returns how many rows that
// were.
func (s *Store) sweep(ctx context.Context, sql string, args ...any) (n int64, err error) {
	err = s.change(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, s.schema().sql(sql), args...)
		n = tag.RowsAffected()
		return err
	})
	return n, err
}

// sweepGone drops the rows that recognised copies.
func (s *Store) sweepGone(ctx context.Context) error {
	for {
		n, err := s.sweep(ctx, forgetSQL, s.clock.Now(), step)
		if err != nil || n < step {
			return err
		}
	}
}

// sweepMailboxes drops mailboxes that are empty. It reads all of them, page by
// page: an index of the empty ones would have to be written with every Put and
// Ack.
func (s *Store) sweepMailboxes(ctx context.Context) error {
	for after := int64(0); ; {
		var empty []int64
		read := 0
		err := s.reader.query(ctx, "empty mailboxes", func(rows pgx.Rows) error {
			for ; rows.Next(); read++ {
				var isEmpty bool
				if err := rows.Scan(&after, &isEmpty); err != nil {
					return err
				}
				if isEmpty {
					empty = append(empty, after)
				}
			}
			return nil
		}, emptyMailboxesSQL, after, step)
		if err != nil {
			return err
		}
		if len(empty) > 0 {
			if _, err := s.sweep(ctx, dropMailboxesSQL, empty); err != nil {
				return err
			}
		}
		if read < step {
			return nil
		}
	}
}

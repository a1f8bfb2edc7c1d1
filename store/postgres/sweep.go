package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// sweepLoop removes what is over, until ctx ends. Several processes that do so
// are in nobody's way: they wait for the mailboxes in the same order, and pass
// over other rows that are locked.
func (s *Store) sweepLoop(ctx context.Context) {
	ticker := time.NewTicker(s.options.SweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, sweep := range []func(context.Context) error{s.sweepExpired, s.sweepGone, s.sweepMailboxes} {
			if err := sweep(ctx); err != nil && ctx.Err() == nil {
				s.options.Logger.Warn("relay: removing what is over failed", "error", err)
			}
		}
	}
}

// sweepExpired removes expired mail, step by step, with other writes in
// between.
func (s *Store) sweepExpired(ctx context.Context) error {
	for {
		names, err := expired(ctx, s.pool, s.schema())
		if err != nil || len(names) == 0 {
			return err
		}
		e := &expiry{destinations: names}
		if err := s.writer.queue.Do(ctx, e, 0); err != nil {
			return err
		}
		if e.removed == 0 { // somebody else does it
			return nil
		}
	}
}

// sweepGone drops what recognised copies.
func (s *Store) sweepGone(ctx context.Context) error {
	for {
		tag, err := s.pool.Exec(ctx, s.schema().sql(forgetSQL), time.Now().UnixMilli(), step)
		if err != nil || tag.RowsAffected() < step {
			return err
		}
	}
}

// sweepMailboxes drops mailboxes that are empty. It reads all of them, page by
// page: an index of the empty ones would have to be written with every Put and
// Ack.
func (s *Store) sweepMailboxes(ctx context.Context) error {
	for after := int64(0); ; {
		rows, err := s.pool.Query(ctx, s.schema().sql(emptyMailboxesSQL), after, step)
		if err != nil {
			return err
		}
		var id int64
		var isEmpty bool
		var empty []int64
		tag, err := pgx.ForEachRow(rows, []any{&id, &isEmpty}, func() error {
			after = id
			if isEmpty {
				empty = append(empty, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(empty) > 0 {
			if _, err := s.pool.Exec(ctx, s.schema().sql(dropMailboxesSQL), empty); err != nil {
				return err
			}
		}
		if tag.RowsAffected() < step {
			return nil
		}
	}
}

package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/matrixrelay/relay/store"
)

// sweepStep is how many entries one transaction removes, so that writers never
// wait for long.
const sweepStep = 256

// sweepLoop removes from the disk what is over, until ctx ends.
func (s *Store) sweepLoop(ctx context.Context) {
	ticker := time.NewTicker(s.options.SweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrReopen) {
			s.options.Logger.Warn("relay: removing expired mail failed", "error", err)
		}
	}
}

// sweep does all there is to do, step by step, with other writes in between.
func (s *Store) sweep(ctx context.Context) error {
	for _, step := range []func(*batch) (int, error){(*batch).expire, (*batch).forget, (*batch).giveBack} {
		for more := true; more; {
			err := s.writer.do(ctx, func(b *batch) error {
				n, err := step(b)
				more = n == sweepStep
				return err
			}, 0)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// forget drops a step of what recognised copies.
func (b *batch) forget() (int, error) {
	result, err := b.sql.forget.Exec(b.now, sweepStep)
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

// giveBack returns free pages to the file system, a step at a time. A few are
// kept, since new mail will need them.
func (b *batch) giveBack() (int, error) {
	const keep = 4096
	var free int
	if err := b.sql.freePages.QueryRow().Scan(&free); err != nil {
		return 0, err
	}
	if free <= keep {
		return 0, nil
	}
	_, err := b.sql.giveBack.Exec()
	return sweepStep, err
}

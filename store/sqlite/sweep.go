package sqlite

import (
	"context"
	"errors"

	"github.com/matrixrelay/relay/store/internal/upkeep"
)

// sweepStep is how many entries one transaction removes, so that writers never
// wait for long.
const sweepStep = 256

// fullStep is how many it removes on a full disk: the log may have no more room than the
// lock file keeps.
const fullStep = 16

// step is how many entries a job of the batch removes.
func (b *batch) step() int {
	if b.noRoom {
		return fullStep
	}
	return sweepStep
}

// sweep does all there is to do, step by step, with other writes in between.
func (s *Store) sweep(ctx context.Context) error {
	var errs []error
	for _, step := range []func(*batch) (bool, error){(*batch).expire, (*batch).forget, (*batch).hasTooMany, (*batch).giveBack, (*batch).copyClock} {
		_, err := upkeep.Steps(func() (int, bool, error) {
			var more bool
			err := s.writer.do(ctx, func(b *batch) (err error) {
				more, err = step(b)
				return err
			}, 0)
			if err != nil { // it may run yet
				return 0, false, err
			}
			return 0, more, nil
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// clockName is the row of the table of sequences that has a copy of the clock. It is on
// another page than total, and a repair takes it if that one is damaged.
const clockName = "clock"

func (b *batch) copyClock() (more bool, err error) {
	result, err := b.sql.setClock.Exec(b.now)
	if err != nil {
		return false, err
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return false, err
	}
	_, err = b.sql.newClock.Exec(b.now)
	return false, err
}

// forget drops a step of the rows that recognise copies, when their retention is over.
func (b *batch) forget() (more bool, err error) {
	b.copies.listed.Expire(b.now, func(int64) {})
	_, more, err = b.each(b.step(), func(id int64) error { return b.forgetCopy(id, b.now) }, b.sql.expired, gone, b.now)
	return more, err
}

// giveBack returns free pages to the file system, a step at a time. A few are
// kept, since new mail will need them, but not where the disk is so full that mail is
// refused for it.
func (b *batch) giveBack() (more bool, err error) {
	keep, giveBack := 4096, b.sql.giveBack
	if room, known := freeSpace(b.dir); known && room < plentyBytes {
		keep = 0
	}
	if b.noRoom {
		giveBack = b.sql.giveBackFew
	}
	var free int
	if err := b.sql.freePages.QueryRow().Scan(&free); err != nil {
		return false, err
	}
	if free <= keep {
		return false, nil
	}
	_, err = giveBack.Exec()
	b.written += int64(b.step()) * 2 * pageSize
	return true, err
}

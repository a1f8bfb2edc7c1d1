package sqlite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/aside"
	"github.com/matrixrelay/relay/store/internal/upkeep"
)

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if err := mail.Check(); err != nil {
		return false, fmt.Errorf("sqlite: %w", err)
	}
	put := putJob{mail: mail, limits: limits}
	if err := s.writer.do(ctx, put.run, mail.Size()); err != nil {
		return false, err
	}
	if !put.stored && put.refused == nil {
		return false, s.checkCopy(ctx, &mail)
	}
	return put.stored, put.refused
}

// Ack implements store.Store. A long row of entries is removed in steps, with
// other writes in between.
func (s *Store) Ack(ctx context.Context, destination spec.ServerName, id int64) (removed int, err error) {
	return upkeep.Steps(func() (int, bool, error) {
		step := ackJob{destination: destination, id: id}
		if err := s.writer.do(ctx, step.run, 0); err != nil { // it may run yet
			return 0, false, err
		}
		return step.removed, step.more, nil
	})
}

// Next implements store.Store.
func (s *Store) Next(ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	q := aside.Query{Destination: destination, After: after, Entries: max(maxEntries, 1), Bytes: maxBytes}
	entries, err := s.past.Next(ctx, q)
	return entries, s.closedOr(err)
}

// Wait implements store.Store. If damage keeps it from finding out whether there is
// mail, it returns, so that Next tells.
func (s *Store) Wait(ctx context.Context, destination spec.ServerName, after int64) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	return s.waiting.Wait(ctx, destination, func() error {
		err := s.closedOr(s.past.Any(ctx, destination, after))
		if isDamage(err) {
			return nil
		}
		return err
	})
}

// Destinations implements store.Store.
func (s *Store) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	names, err := s.reader.destinations(ctx, after, max(limit, 1))
	return names, s.closedOr(err)
}

// Usage implements store.Store.
func (s *Store) Usage(ctx context.Context, destination spec.ServerName) (store.Usage, error) {
	if err := s.usable(ctx); err != nil {
		return store.Usage{}, err
	}
	usage, err := s.reader.usage(ctx, destination)
	return usage, s.closedOr(err)
}

// StoreTime implements store.Timed.
func (s *Store) StoreTime(ctx context.Context) (time.Duration, error) {
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	return time.Duration(s.writer.clock.Now()) * time.Millisecond, nil
}

func (s *Store) usable(ctx context.Context) error {
	if s.writer.isClosed() {
		return store.ErrClosed
	}
	return ctx.Err()
}

// closedOr makes a read that failed since the store was being closed say so. If
// the disk isn't trusted any more, that is a part of the error.
func (s *Store) closedOr(err error) error {
	if err != nil && s.writer.isClosed() {
		return store.ErrClosed
	}
	if err == nil || errors.Is(err, store.ErrEmpty) {
		return err
	}
	if isDamage(err) {
		s.writer.damaged(err)
	}
	if lost := s.trust.Failure(); lost != nil {
		return fmt.Errorf("%w (%w)", err, lost)
	}
	return err
}

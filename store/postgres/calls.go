package postgres

import (
	"context"
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
		return false, fmt.Errorf("postgres: %w", err)
	}
	p := newPut(mail, limits)
	if err := s.writer.queue.Do(ctx, p, mail.Size()); err != nil {
		return false, err
	}
	return p.stored, p.refused
}

// Ack implements store.Store. A long row of entries is removed in steps, with
// other writes in between. The number may be too small when the connection was
// lost meanwhile.
func (s *Store) Ack(ctx context.Context, destination spec.ServerName, id int64) (removed int, err error) {
	return upkeep.Steps(func() (int, bool, error) {
		a := removalOf(destination, "ack", ackSQL, id, step)
		a.acks = true
		err := s.writer.queue.Do(ctx, a, 0)
		if isDamage(err) {
			removed, err := s.ackPlaces(ctx, destination, id, err)
			return removed, false, err
		}
		if err != nil { // it may run yet
			return 0, false, err
		}
		return a.removed, a.removed == step, nil
	})
}

// Next implements store.Store.
func (s *Store) Next(ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	q := aside.Query{Destination: destination, After: after, Entries: max(maxEntries, 1), Bytes: maxBytes}
	entries, err := s.past.Next(ctx, q)
	return entries, s.closedOr(ctx, err)
}

// Wait implements store.Store.
func (s *Store) Wait(ctx context.Context, destination spec.ServerName, after int64) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	return s.waiting.Wait(ctx, wakeName(destination), func() error {
		return s.closedOr(ctx, s.past.Any(ctx, destination, after))
	})
}

// Destinations implements store.Store.
func (s *Store) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	names, err := s.reader.destinations(ctx, after, max(limit, 1))
	return names, s.closedOr(ctx, err)
}

// Usage implements store.Store.
func (s *Store) Usage(ctx context.Context, destination spec.ServerName) (store.Usage, error) {
	if err := s.usable(ctx); err != nil {
		return store.Usage{}, err
	}
	usage, err := s.reader.usage(ctx, destination)
	return usage, s.closedOr(ctx, err)
}

// StoreTime implements store.Timed.
func (s *Store) StoreTime(ctx context.Context) (time.Duration, error) {
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	return time.Duration(s.clock.Now()) * time.Millisecond, nil
}

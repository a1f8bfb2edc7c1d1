package postgres

import (
	"context"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
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
	for {
		a := &ack{destination: destination, id: id}
		if err := s.writer.queue.Do(ctx, a, 0); err != nil {
			return removed, err
		}
		removed += a.removed
		if !a.more {
			return removed, nil
		}
	}
}

// Next implements store.Store.
func (s *Store) Next(ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	q := query{destination: destination, after: after, entries: max(maxEntries, 1), bytes: maxBytes}
	for {
		entries, damaged, err := s.reader.next(ctx, q)
		if err != nil {
			return nil, s.closedOr(ctx, err)
		}
		for _, d := range damaged {
			s.setAside(ctx, destination, d)
		}
		if len(entries) > 0 {
			return entries, nil
		}
		if len(damaged) == 0 {
			return nil, store.ErrEmpty
		}
		q.after = damaged[len(damaged)-1].id
	}
}

// setAside takes an entry out of its mailbox. If even that can't be written,
// the reader passes over it for as long as the store is open.
func (s *Store) setAside(ctx context.Context, destination spec.ServerName, d damage) {
	if !s.reader.passOver(d.id) {
		return
	}
	log := s.options.Logger.With("destination", destination, "entry", d.id)
	log.Error("relay: an entry can't be read and is set aside", "error", d.err)
	if err := s.writer.queue.Do(context.WithoutCancel(ctx), &settingAside{destination, d.id}, 0); err != nil {
		log.Error("relay: setting an entry aside failed", "error", err)
		if !isDamage(err) {
			s.reader.lookAgain(d.id)
		}
	}
}

// Wait implements store.Store.
func (s *Store) Wait(ctx context.Context, destination spec.ServerName, after int64) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	return s.waiting.Wait(ctx, wakeName(destination), func() error {
		return s.closedOr(ctx, s.reader.any(ctx, destination, after))
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

package move

import (
	"context"
	"errors"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// Next implements store.Store.
func (s *Store) Next(ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	return readOn(ctx, s, destination, maxEntries, func() ([]store.Entry, error) {
		return s.to.Next(ctx, destination, after, maxEntries, maxBytes)
	})
}

// readOn reads a page of the mail of a destination in the new store. It has mail moved
// when that hasn't enough for the page.
func readOn[T any](ctx context.Context, s *Store, destination spec.ServerName, most int, read func() ([]T, error)) ([]T, error) {
	for had := 0; !s.detours.over.Load(); {
		// The old store is asked first, so that nothing passes by unseen.
		waiting, failed := s.isWaiting(ctx, destination)
		page, err := read()
		switch {
		case err != nil && !errors.Is(err, store.ErrEmpty):
			return nil, err
		case len(page) >= max(most, 1), len(page) > 0 && (failed != nil || len(page) == had): // or it has enough bytes
			return page, nil
		case failed != nil:
			return nil, failed
		case !waiting:
			return page, err
		}
		had = len(page)
		_, failed = s.moveChunk(ctx, destination)
		switch {
		case errors.Is(failed, store.ErrEmpty): // the mail that was counted had expired
			return read()
		case failed != nil && had > 0:
			return page, nil
		case failed != nil:
			return nil, failed
		}
	}
	return read()
}

// Ack implements store.Store.
func (s *Store) Ack(ctx context.Context, destination spec.ServerName, id int64) (int, error) {
	return s.to.Ack(ctx, destination, id)
}

// Wait implements store.Store. Mail in the old store will be newer than
// anything in the new one, so any of it ends the wait.
func (s *Store) Wait(ctx context.Context, destination spec.ServerName, after int64) error {
	if s.detours.over.Load() {
		return s.to.Wait(ctx, destination, after)
	}
	either, cancel := context.WithCancel(ctx)
	defer cancel()
	first := make(chan error, 1)
	go func() {
		err := s.from.Wait(either, destination, 0)
		cancel()
		first <- err
	}()
	err := s.to.Wait(either, destination, after)
	cancel()
	other := <-first
	// The second one was only told to stop.
	if err == nil || other == nil {
		return nil
	}
	if ctx.Err() == nil && errors.Is(err, context.Canceled) {
		return other
	}
	return err
}

// Destinations implements store.Store.
func (s *Store) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	return s.ofBoth(limit, func(one store.Store) ([]spec.ServerName, error) { return one.Destinations(ctx, after, limit) })
}

// ofBoth is a page of the names that either store lists.
func (s *Store) ofBoth(limit int, list func(store.Store) ([]spec.ServerName, error)) ([]spec.ServerName, error) {
	if s.detours.over.Load() {
		return list(s.to)
	}
	// The old store first: mail that leaves it in between is in the new one.
	names, err := list(s.from)
	if err != nil {
		return nil, err
	}
	others, err := list(s.to)
	if err != nil {
		return nil, err
	}
	names = slices.Concat(names, others)
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), max(limit, 1))], nil
}

// Usage implements store.Store. Mail that was set aside stays in the old store, and
// is counted for as long as that is in use.
func (s *Store) Usage(ctx context.Context, destination spec.ServerName) (store.Usage, error) {
	if s.forgotten.Load() {
		return s.to.Usage(ctx, destination)
	}
	old, err := s.from.Usage(ctx, destination)
	if err != nil && !s.detours.over.Load() {
		return store.Usage{}, err
	}
	usage, err := s.to.Usage(ctx, destination)
	if err != nil {
		return store.Usage{}, err
	}
	usage.SetAside += old.SetAside
	if !s.detours.over.Load() {
		usage.Entries += old.Entries
		usage.Bytes += old.Bytes
	}
	return usage, nil
}

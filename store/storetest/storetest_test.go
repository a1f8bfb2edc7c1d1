package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// The tests for places that a memory.Store isn't, in one that pretends to be
// all of them.
func TestShelf(t *testing.T) { Run(t, newShelf) }

// A shelf is a place that outlives the stores that are opened in it, that
// several may have open at once, and that can be damaged.
type shelf struct {
	mail    *memory.Store
	mu      sync.Mutex
	lying   map[store.Digest]bool // mail that a power cut takes away
	stalled chan struct{}         // is closed while nothing is stalled
	damaged map[int64]bool
	aside   map[int64]store.Entry // the damaged ones that Next came across
	removed []store.Mail          // by Remove
}

func newShelf(testing.TB) Place {
	s := &shelf{
		damaged: make(map[int64]bool), aside: make(map[int64]store.Entry), lying: make(map[store.Digest]bool), stalled: make(chan struct{}),
	}
	close(s.stalled)
	open := func(options memory.Options) store.Store {
		if s.mail == nil {
			s.mail = memory.New(options)
		}
		h := &handle{shelf: s}
		h.open, h.close = context.WithCancelCause(context.Background())
		return h
	}
	return Place{
		Open: func(_ testing.TB, retention time.Duration) store.Store {
			return open(memory.Options{Retention: retention})
		},
		OpenFew: func(_ testing.TB, ofAll, ofOrigin int64) store.Store {
			return open(memory.Options{MaxCopies: ofAll, MaxCopiesOfOrigin: ofOrigin})
		},
		Shared:    true,
		Abilities: Abilities{Timed: true, Managed: true},
		Damage: map[string]func(testing.TB, spec.ServerName, int64){
			"body": func(_ testing.TB, _ spec.ServerName, id int64) { s.damaged[id] = true },
		},
		Stall: s.stall,
		Crash: s.crash,
	}
}

func (s *shelf) stall(testing.TB) (resume func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalled = make(chan struct{})
	return func() { close(s.stalled) }
}

// wait waits as long as the shelf is stalled.
func (s *shelf) wait(ctx context.Context) error {
	s.mu.Lock()
	stalled := s.stalled
	s.mu.Unlock()
	select {
	case <-stalled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// crash moves durable mail to a new memory.
func (s *shelf) crash(tb testing.TB) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.mail
	time.Sleep(2 * time.Millisecond) // see store.FirstID
	s.mail = memory.New(memory.Options{Retention: longRetention})
	for _, mail := range s.removed { // it is remembered
		_, err := s.mail.Put(tb.Context(), mail, store.Limits{})
		require.NoError(tb, err)
		entries, err := s.mail.Next(tb.Context(), mail.Destination, 0, 1, plenty)
		require.NoError(tb, err)
		_, err = s.mail.Ack(tb.Context(), mail.Destination, entries[0].ID)
		require.NoError(tb, err)
	}
	for _, name := range []spec.ServerName{here, there} {
		entries, err := readAll(tb.Context(), old, name)
		require.NoError(tb, err)
		for _, entry := range entries {
			if !s.lying[entry.Digest] {
				_, err := s.mail.Put(tb.Context(), entry.Mail, store.Limits{})
				require.NoError(tb, err)
			}
		}
	}
}

// now is the memory that the shelf has.
func (s *shelf) now() *memory.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mail
}

// pass takes damaged entries out of entries.
func (s *shelf) pass(entries []store.Entry) []store.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(entries, func(entry store.Entry) bool {
		if s.damaged[entry.ID] {
			s.aside[entry.ID] = entry
		}
		return s.damaged[entry.ID]
	})
}

// setAside returns the usage of entries that are set aside of a destination, or of all.
func (s *shelf) setAside(destination spec.ServerName) (usage store.Usage, last int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, entry := range s.aside {
		if destination == "" || destination == entry.Destination {
			usage.SetAside++
			usage.Bytes += entry.Size()
			last = max(last, id)
		}
	}
	return usage, last
}

// A handle is a shelf that is open.
type handle struct {
	*shelf
	calls sync.RWMutex // held for reading during a call, for writing by Close
	open  context.Context
	close context.CancelCauseFunc
}

func (h *handle) enter() error {
	h.calls.RLock()
	if h.open.Err() != nil {
		h.calls.RUnlock()
		return store.ErrClosed
	}
	return nil
}

func (h *handle) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if err := h.enter(); err != nil {
		return false, err
	}
	defer h.calls.RUnlock()
	if err := h.wait(ctx); err != nil {
		return false, err
	}
	return h.now().Put(ctx, mail, limits)
}

func (h *handle) StoreTime(ctx context.Context) (time.Duration, error) {
	if err := h.enter(); err != nil {
		return 0, err
	}
	defer h.calls.RUnlock()
	return h.now().StoreTime(ctx)
}

func (h *handle) Sizes(ctx context.Context) (store.Sizes, error) {
	if err := h.enter(); err != nil {
		return store.Sizes{}, err
	}
	defer h.calls.RUnlock()
	return h.now().Sizes(ctx)
}

func (h *handle) Next(ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	if err := h.enter(); err != nil {
		return nil, err
	}
	defer h.calls.RUnlock()
	all, err := h.now().Next(ctx, destination, after, plenty, plenty)
	if err != nil {
		return nil, err
	}
	all = h.pass(all)
	n, sum := 0, int64(0)
	for ; n < len(all) && n < max(maxEntries, 1); n++ {
		if sum += all[n].Size(); n > 0 && sum > maxBytes {
			break
		}
	}
	if n == 0 {
		return nil, store.ErrEmpty
	}
	return all[:n], nil
}

func (h *handle) Ack(ctx context.Context, destination spec.ServerName, id int64) (int, error) {
	if err := h.enter(); err != nil {
		return 0, err
	}
	defer h.calls.RUnlock()
	removed, err := h.now().Ack(ctx, destination, id)
	h.mu.Lock()
	defer h.mu.Unlock()
	for aside, entry := range h.aside {
		if removed > 0 && aside <= id && entry.Destination == destination {
			delete(h.aside, aside)
		}
	}
	return removed, err
}

func (h *handle) Wait(ctx context.Context, destination spec.ServerName, after int64) error {
	_, err := h.Next(ctx, destination, after, 1, 0)
	if !errors.Is(err, store.ErrEmpty) {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.open, func() { cancel(store.ErrClosed) })()
	_, aside := h.setAside(destination)
	if err := h.now().Wait(ctx, destination, max(after, aside)); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (h *handle) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	if err := h.enter(); err != nil {
		return nil, err
	}
	defer h.calls.RUnlock()
	return h.now().Destinations(ctx, after, limit)
}

func (h *handle) Usage(ctx context.Context, destination spec.ServerName) (store.Usage, error) {
	if err := h.enter(); err != nil {
		return store.Usage{}, err
	}
	defer h.calls.RUnlock()
	usage, err := h.now().Usage(ctx, destination)
	aside, _ := h.setAside(destination)
	usage.SetAside = aside.SetAside
	usage.Entries -= aside.SetAside
	usage.Bytes -= aside.Bytes
	return usage, err
}

func (h *handle) Close() error {
	h.close(store.ErrClosed)
	h.calls.Lock()
	defer h.calls.Unlock()
	return nil
}

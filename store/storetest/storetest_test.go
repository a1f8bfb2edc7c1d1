package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// The tests for places that a memory.Store isn't, in one that pretends to be
// all of them.
func TestShelf(t *testing.T) { Run(t, newShelf) }

// A shelf is a place that outlives the stores that are opened in it, that
// several may have open at once, and that can be damaged.
type shelf struct {
	mail    store.Store
	mu      sync.Mutex
	damaged map[int64]bool
	aside   map[int64]store.Entry // the damaged ones that Next came across
}

func newShelf(testing.TB) Place {
	s := &shelf{damaged: make(map[int64]bool), aside: make(map[int64]store.Entry)}
	return Place{
		Open: func(_ testing.TB, retention time.Duration) store.Store {
			if s.mail == nil {
				s.mail = memory.New(memory.Options{Retention: retention})
			}
			h := &handle{shelf: s}
			h.open, h.close = context.WithCancelCause(context.Background())
			return h
		},
		Shared: true,
		Damage: func(_ testing.TB, _ spec.ServerName, id int64) { s.damaged[id] = true },
	}
}

// pass takes what is damaged out of entries.
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

// setAside returns what is set aside of a destination, or of all.
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
	return h.mail.Put(ctx, mail, limits)
}

func (h *handle) Next(ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	if err := h.enter(); err != nil {
		return nil, err
	}
	defer h.calls.RUnlock()
	all, err := h.mail.Next(ctx, destination, after, plenty, plenty)
	if err != nil {
		return nil, err
	}
	all = h.pass(all)
	n, sum := 0, int64(0)
	for ; n < len(all) && n < maxEntries; n++ {
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
	removed, err := h.mail.Ack(ctx, destination, id)
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
	if err := h.mail.Wait(ctx, destination, max(after, aside)); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (h *handle) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	if err := h.enter(); err != nil {
		return nil, err
	}
	defer h.calls.RUnlock()
	return h.mail.Destinations(ctx, after, limit)
}

func (h *handle) Usage(ctx context.Context, destination spec.ServerName) (store.Usage, error) {
	if err := h.enter(); err != nil {
		return store.Usage{}, err
	}
	defer h.calls.RUnlock()
	usage, err := h.mail.Usage(ctx, destination)
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

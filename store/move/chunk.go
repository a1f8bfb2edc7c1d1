package move

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
)

const (
	// chunkEntries and chunkBytes bound the mail that is moved between two
	// acknowledgements. Of a destination there is one chunk at a time.
	chunkEntries = 64
	chunkBytes   = 4 << 20

	// maxChunks is how many are in memory at once; others wait.
	maxChunks = 16
)

// moveChunk moves the oldest mail of a destination and returns how much that
// was. It returns store.ErrEmpty if the old store has none.
func (s *Store) moveChunk(ctx context.Context, destination spec.ServerName) (moved int, err error) {
	leave, err := s.lanes.enter(ctx, destination)
	if err != nil {
		return 0, err
	}
	defer leave()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	entries, err := s.from.Next(ctx, destination, 0, chunkEntries, chunkBytes)
	if err != nil {
		return 0, fmt.Errorf("move: read mail of %s: %w", destination, err)
	}
	moved, err = s.putAll(ctx, entries)
	if moved == 0 {
		return 0, err
	}
	if err := s.marks.refresh(ctx, s.from); err != nil {
		return 0, err
	}
	// Mail that got over is acknowledged even if the rest failed, so that a store that
	// fails now and then gets on.
	if _, ackErr := s.from.Ack(ctx, destination, entries[moved-1].ID); ackErr != nil {
		return 0, errors.Join(err, fmt.Errorf("move: acknowledge mail of %s: %w", destination, ackErr))
	}
	return moved, err
}

// putAll puts entries into the new store, all with one commit if it can do that
// and nothing is wrong with any of them, or one after the other: Puts at once
// have no order.
func (s *Store) putAll(ctx context.Context, entries []store.Entry) (moved int, err error) {
	if batches, ok := s.to.(store.Batches); ok {
		mails := make([]store.Mail, len(entries))
		for i := range entries {
			mails[i] = entries[i].Mail
		}
		if batches.PutAll(ctx, mails) == nil {
			return len(entries), nil
		}
	}
	for i := range entries {
		if _, err := s.to.Put(ctx, entries[i].Mail, store.Limits{}); err != nil {
			return i, fmt.Errorf("move: put mail for %s: %w", entries[i].Destination, err)
		}
	}
	return len(entries), nil
}

// lanes has one goroutine at a time do something for a destination.
type lanes struct {
	mu sync.Mutex
	of map[spec.ServerName]*lane
}

type lane struct {
	users int
	taken turns.Turn
}

// enter waits until nobody else is in the lane of destination, which is so until
// leave is called.
func (l *lanes) enter(ctx context.Context, destination spec.ServerName) (leave func(), err error) {
	one := l.join(destination)
	if err := one.taken.Take(ctx); err != nil {
		l.part(destination, one)
		return nil, err
	}
	return func() {
		one.taken.Give()
		l.part(destination, one)
	}, nil
}

func (l *lanes) join(destination spec.ServerName) *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.of[destination]
	if one == nil {
		one = &lane{taken: turns.New()}
		if l.of == nil {
			l.of = make(map[spec.ServerName]*lane)
		}
		l.of[destination] = one
	}
	one.users++
	return one
}

func (l *lanes) part(destination spec.ServerName, one *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one.users--; one.users == 0 {
		delete(l.of, destination)
	}
}

// holds knows the destinations whose Puts are held, because they come faster
// than they are moved.
type holds struct {
	mu sync.Mutex
	of map[spec.ServerName]*hold
}

type hold struct {
	since time.Time
	over  chan struct{}
}

// begin holds the Puts of destination until the function that it returns is
// called. One goroutine at a time may do so for a destination.
func (h *holds) begin(destination spec.ServerName) (end func()) {
	one := &hold{since: time.Now(), over: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = make(map[spec.ServerName]*hold)
	}
	h.of[destination] = one
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.of, destination)
		close(one.over)
	}
}

// wait returns when Puts of destination aren't held, or this one has been for as
// long as they were before it. So fewer and fewer come, however slow the new store
// is.
func (h *holds) wait(ctx context.Context, destination spec.ServerName) error {
	h.mu.Lock()
	one := h.of[destination]
	h.mu.Unlock()
	if one == nil {
		return nil
	}
	timer := time.NewTimer(min(max(holdTime, time.Since(one.since)), mostHoldTime))
	defer timer.Stop()
	select {
	case <-one.over:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

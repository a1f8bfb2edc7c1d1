// Package wake lets goroutines wait for mail of a destination without polling:
// the waiting half of a store that learns of every Put.
package wake

import (
	"context"
	"errors"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A Hub knows which goroutines wait for which destination. The zero value is ready for
// use; it costs a map entry for each destination that is waited for.
type Hub struct {
	mu      sync.Mutex
	closed  bool
	waiting map[spec.ServerName]*signal
}

// A signal is closed when its destination has mail. It is shared by all goroutines
// that wait for that destination and removed with the last of them.
type signal struct {
	fired chan struct{}
	users int
}

// Notify wakes all that wait for destination.
func (h *Hub) Notify(destination spec.ServerName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.waiting[destination]; s != nil {
		close(s.fired)
		delete(h.waiting, destination)
	}
}

// NotifyAll wakes all that wait: for a store that may have missed a Put.
func (h *Hub) NotifyAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fireAll()
}

// Close ends all waits, and every later one, with store.ErrClosed.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.fireAll()
}

func (h *Hub) fireAll() {
	for destination, s := range h.waiting {
		close(s.fired)
		delete(h.waiting, destination)
	}
}

// Wait returns nil once check does or destination was notified. Check looks
// for mail in the store and answers store.ErrEmpty while there is none; it
// runs after the wait was registered, so that no Put between the two is
// missed.
func (h *Hub) Wait(ctx context.Context, destination spec.ServerName, check func() error) error {
	s, err := h.join(destination)
	if err != nil {
		return err
	}
	defer h.leave(destination, s)
	if err := check(); !errors.Is(err, store.ErrEmpty) {
		return err
	}
	select {
	case <-s.fired:
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.closed {
			return store.ErrClosed
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *Hub) join(destination spec.ServerName) (*signal, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, store.ErrClosed
	}
	s := h.waiting[destination]
	if s == nil {
		s = &signal{fired: make(chan struct{})}
		if h.waiting == nil {
			h.waiting = make(map[spec.ServerName]*signal)
		}
		h.waiting[destination] = s
	}
	s.users++
	return s, nil
}

func (h *Hub) leave(destination spec.ServerName, s *signal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.users--
	if s.users == 0 && h.waiting[destination] == s {
		delete(h.waiting, destination)
	}
}

// Package turns has a lock for work that may take long, such as that of a store: nobody
// waits for it longer than its context lasts.
package turns

import "context"

// A Turn is such a lock. Make one with New.
type Turn chan struct{}

// New makes a Turn that nobody has.
func New() Turn { return make(Turn, 1) }

// Take waits for the turn, which Give ends. The error is that of the context.
func (t Turn) Take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TryTake takes the turn if nobody has it.
func (t Turn) TryTake() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// Give ends the turn.
func (t Turn) Give() { <-t }

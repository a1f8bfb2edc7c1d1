package policy

import "context"

// A turn is a lock that is held while a store works, which may take long: nobody waits
// for it longer than the request lasts.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn, which give ends. The error is that of the context.
func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tryTake takes the turn if nobody has it.
func (t turn) tryTake() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

func (t turn) give() { <-t }

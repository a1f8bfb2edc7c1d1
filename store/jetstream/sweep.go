package jetstream

import (
	"context"
	"errors"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/upkeep"
)

// sweep removes expired mail from all mailboxes that have some, step by step,
// with other writes in between. It reports whether there was any.
func (s *Store) sweep(ctx context.Context) (did bool, err error) {
	if err := s.sweeping.Take(ctx); err != nil {
		return false, err
	}
	defer s.sweeping.Give()
	var errs []error
	for _, destination := range s.cache.due() {
		e := expireJob{destination: destination}
		removed, err := upkeep.Steps(func() (int, bool, error) {
			if err := s.change(ctx, destination, e.run, 0); err != nil { // it may run yet
				return 0, false, err
			}
			e.looked, e.soonest = e.upTo, e.soonestUpTo
			return e.removed, e.more, nil
		})
		did, errs = did || removed > 0, append(errs, err)
		if ctx.Err() != nil {
			return did, ctx.Err()
		}
	}
	return did, errors.Join(errs...)
}

// makeRoom is for mail that found no room: it removes expired mail, which nobody
// needs, and reports whether there was any.
func (s *Store) makeRoom(ctx context.Context, refused error) bool {
	if !errors.Is(refused, store.ErrFull) || len(s.cache.due()) == 0 {
		return false
	}
	did, err := s.sweep(ctx)
	return did && err == nil
}

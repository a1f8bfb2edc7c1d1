package jetstream

import (
	"context"
	"errors"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/upkeep"
)

// sweep removes what is over from all mailboxes that have some, step by step,
// with other writes in between. It reports whether there was any.
func (s *Store) sweep(ctx context.Context) (did bool, err error) {
	select {
	case s.sweeping <- struct{}{}:
		defer func() { <-s.sweeping }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	var errs []error
	for _, destination := range s.cache.due() {
		done, err := s.sweepBox(ctx, destination)
		if ctx.Err() != nil {
			return did, ctx.Err()
		}
		did = did || done
		errs = append(errs, err)
	}
	return did, errors.Join(errs...)
}

func (s *Store) sweepBox(ctx context.Context, destination spec.ServerName) (did bool, err error) {
	e := expireJob{destination: destination}
	_, err = upkeep.Steps(func() (int, bool, error) {
		err := s.mending(ctx, destination, func() error { return s.writer.do(ctx, e.run, 0) })
		if err != nil { // it may run yet
			return 0, false, err
		}
		did = did || e.removed
		e.looked, e.soonest = e.upTo, e.soonestUpTo
		return 0, e.more, nil
	})
	return did, err
}

// makeRoom is for mail that found none: it removes what has expired, which is in
// nobody's way, and reports whether there was any.
func (s *Store) makeRoom(ctx context.Context, refused error) bool {
	if !errors.Is(refused, store.ErrFull) || len(s.cache.due()) == 0 {
		return false
	}
	did, err := s.sweep(ctx)
	return did && err == nil
}

// An expireJob looks at a step of the entries of a mailbox, removes those whose
// time is over, and moves the mark over those that are gone.
type expireJob struct {
	destination spec.ServerName
	looked      int64 // the place up to which earlier steps have looked
	soonest     int64 // that one of those expires

	// The result of a step: like looked and soonest after it, whether it has removed
	// anything, and whether there are others.
	upTo, soonestUpTo int64
	removed, more     bool
}

func (e *expireJob) run(b *batch) error {
	e.upTo, e.soonestUpTo, e.removed, e.more = e.looked, e.soonest, false, false // it may run again
	x, err := b.box(e.destination)
	if err != nil || x.value == nil {
		return err
	}
	e.upTo = max(e.looked, x.value.mark)
	mark, last := x.value.mark, min(e.upTo+int64(min(dropStep, b.maxMessages/8)*pageSize), x.value.next()-1)
	if err := b.needMetas(e.destination, x, e.upTo+1, last); err != nil {
		return err
	}
	r := newRemover(b, e.destination, x)
	for e.upTo < last && !r.enough() {
		place := e.upTo + 1
		m, _, err := b.meta(e.destination, x, place)
		if err != nil || m == nil {
			return err
		}
		if m.expired(b.now) && m.state != gone {
			if _, err := r.remove(place); err != nil {
				return err
			}
			e.removed = true
		}
		if m.state == gone && mark == e.upTo {
			mark = place
		}
		if m.state != gone && m.expires != 0 && (e.soonestUpTo == 0 || m.expires < e.soonestUpTo) {
			e.soonestUpTo = m.expires
		}
		e.upTo = place
	}
	if e.more = e.upTo < x.value.next()-1; !e.more && x.value.soonest != e.soonestUpTo {
		x.value.soonest, x.changed = e.soonestUpTo, true
	}
	return r.finish(mark)
}

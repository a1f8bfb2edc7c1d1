package jetstream

import (
	"context"
	"errors"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
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
	for {
		var w *walk
		err := s.mending(ctx, destination, func() (err error) {
			w, err = s.reader.walk(ctx, destination)
			return err
		})
		if err != nil || w == nil {
			return did, err
		}
		e := expireJob{destination: destination, walk: *w}
		if err := s.writer.do(ctx, e.run, 0); err != nil {
			return did, err
		}
		did = did || len(w.expired) > 0
		if w.complete && !e.more {
			return did, nil
		}
	}
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

// A walk is what was found in a mailbox whose time it was to be looked through.
type walk struct {
	seq      uint64  // of the mailbox's record
	expired  []int64 // places of entries to be removed
	head     int64   // all before this place are gone, once those are removed
	complete bool    // there are no others, and then soonest holds
	soonest  int64
}

// walk looks for entries whose time is over, for as many as one batch removes.
func (r *reader) walk(ctx context.Context, destination spec.ServerName) (w *walk, err error) {
	err = r.untilSure(ctx, errNoPage, func() error {
		b, seq, err := r.box(ctx, destination)
		if w = nil; err != nil || b == nil {
			return err
		}
		w = &walk{seq: seq, head: b.next(), complete: true}
		at, messages := r.cache.clock.Now(), 0
		return r.each(ctx, destination, b, 0, func(i item) bool {
			if i.state == gone {
				return true
			}
			if i.expired(at) && messages < removeStep {
				w.expired = append(w.expired, i.place)
				messages += 1 + int(i.parts)
				return true
			}
			w.head = min(w.head, i.place)
			if i.expires != 0 && (w.soonest == 0 || i.expires < w.soonest) {
				w.soonest = i.expires
			}
			w.complete = !i.expired(at)
			return w.complete
		})
	})
	return w, err
}

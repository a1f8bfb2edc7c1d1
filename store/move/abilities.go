package move

import (
	"cmp"
	"context"
	"sync"

	"github.com/matrixrelay/relay/store"
)

var (
	_ store.Failing    = (*Store)(nil)
	_ store.Measured   = (*Store)(nil)
	_ store.Committing = (*Store)(nil)
)

// watch closes failed once either store has to be reopened, or returns when ctx
// ends.
func (s *Store) watch(ctx context.Context) {
	select {
	case <-store.FailedOf(s.from):
	case <-store.FailedOf(s.to):
	case <-ctx.Done():
		return
	}
	close(s.failed)
}

// Failed implements store.Failing, for both stores.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Failure implements store.Failing.
func (s *Store) Failure() error {
	select {
	case <-s.failed:
	default:
		return nil
	}
	return cmp.Or(store.FailureOf(s.from), store.FailureOf(s.to))
}

// Sizes implements store.Measured: the sum of both, as far as they say.
func (s *Store) Sizes(ctx context.Context) (sum store.Sizes, err error) {
	for _, one := range []store.Store{s.from, s.to} {
		m, ok := one.(store.Measured)
		if !ok {
			continue
		}
		sizes, err := m.Sizes(ctx)
		if err != nil {
			return store.Sizes{}, err
		}
		sum.Copies += sizes.Copies
		sum.File += sizes.File
		sum.Log += sizes.Log
	}
	return sum, nil
}

// OnCommit implements store.Committing, for both stores, as far as they tell.
func (s *Store) OnCommit(tell func(store.Commit)) (stop func()) {
	var mu sync.Mutex
	var stops []func()
	for _, one := range []store.Store{s.from, s.to} {
		if c, ok := one.(store.Committing); ok {
			stops = append(stops, c.OnCommit(func(commit store.Commit) {
				mu.Lock()
				defer mu.Unlock()
				tell(commit)
			}))
		}
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

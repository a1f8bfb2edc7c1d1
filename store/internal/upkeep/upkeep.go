// Package upkeep has the steps that all stores take to remove mail that is over.
package upkeep

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/store"
)

// Retention is how long a copy is recognised with that option: 24 hours for
// zero, and not at all for less.
func Retention(option time.Duration) time.Duration {
	defaults.Bounds(&option, 24*time.Hour, 0)
	return option
}

// Loop calls sweep once in an interval until ctx ends: zero is a minute, less is
// never. It logs the errors in the store's name, but for ErrReopen, which the
// store says itself.
func Loop(ctx context.Context, interval time.Duration, log *slog.Logger, name string, sweep func(context.Context) error) {
	defaults.Set(&interval, time.Minute)
	if interval < 0 {
		return
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := sweep(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrReopen) {
			log.Warn(name+": removing expired mail failed", "error", err)
		}
	}
}

// Steps does a long piece of work in several commits, with those of others in
// between, and returns how much all of them did.
func Steps(step func() (done int, more bool, err error)) (all int, err error) {
	for {
		done, more, err := step()
		if err != nil {
			return all, err
		}
		if all += done; !more {
			return all, nil
		}
	}
}

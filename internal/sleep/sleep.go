// Package sleep waits for a time, and no longer than a context lasts.
package sleep

import (
	"context"
	"time"
)

// For returns after that time, or with the error of ctx once that has ended.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

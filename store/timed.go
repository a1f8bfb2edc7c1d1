package store

import (
	"context"
	"time"
)

// Timed is an ability that stores may have beside Store: they tell the time by
// which they count lifetimes and the retention.
type Timed interface {
	// StoreTime is where the store's clock stands: it grows while the store is
	// open, and where it began means nothing.
	StoreTime(ctx context.Context) (time.Duration, error)
}

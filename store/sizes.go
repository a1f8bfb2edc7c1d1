package store

import "context"

// Measured is an ability that stores may have beside Store: to say how much
// room their files take. Its method is safe for concurrent use.
type Measured interface {
	// Sizes returns the sizes at this moment. It reads no mail.
	Sizes(ctx context.Context) (Sizes, error)
}

// Sizes are the sizes of a store's files on the disk, in bytes.
type Sizes struct {
	// File is the database. It doesn't always shrink when mail is removed.
	File int64

	// Log holds everything that was written and isn't in the database yet, and the room
	// that is kept for more of it. A log that grows without end can't be brought into
	// the database, for instance since another program reads that for long.
	Log int64
}

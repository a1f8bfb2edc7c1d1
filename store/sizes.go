package store

import "context"

// DefaultMaxCopies is how many transactions that are gone our own stores remember if
// nothing else is said, to recognise copies of them.
const DefaultMaxCopies = 1_000_000

// Measured is an ability that stores may have beside Store: to say how much
// room they take besides that of the mail. Its method is safe for concurrent use.
type Measured interface {
	// Sizes returns the sizes at this moment. It reads no mail.
	Sizes(ctx context.Context) (Sizes, error)
}

// Sizes are how much room a store takes: of its files on the disk in bytes, where it knows.
type Sizes struct {
	// Copies counts the transactions that aren't kept any more and are remembered, so
	// that copies of them are recognised: see Store.Put. It may be some seconds old, and
	// may leave out those of other processes.
	Copies int64

	// File is the database. It doesn't always shrink when mail is removed.
	File int64

	// Log holds everything that was written and isn't in the database yet, and the room
	// that is kept for more of it. A log that grows without end can't be brought into
	// the database, for instance since another program reads that for long.
	Log int64
}

package store

import "time"

// Committing is an ability that stores may have beside Store: to tell of their
// commits, which calls share. Its method is safe for concurrent use.
type Committing interface {
	// OnCommit has tell called after each commit, successful or not, one at a time,
	// until stop is called. Writes wait for it, so it must be quick and make no call to the
	// store. When stop returns, tell isn't called any more; stop may be called more than
	// once.
	OnCommit(tell func(Commit)) (stop func())
}

// A Commit is one time that a store has written durably.
type Commit struct {
	// Calls is how many calls shared it, and Bytes those of their mail (Mail.Size) and
	// notes, also of copies and of mail that was refused.
	Calls int
	Bytes int64

	// Took is how long it took, from the first statement until it was on the disk, with
	// all attempts.
	Took time.Duration
}

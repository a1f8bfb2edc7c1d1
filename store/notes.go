package store

import "context"

// Notes is an ability that stores may have beside Store: small facts that an
// embedder's own parts remember, such as who relays for whom. It lasts as mail
// does. Like Store's, its methods are safe for concurrent use.
type Notes interface {
	// SetNotes makes all changes or none, and returns nil only once they would
	// survive a power cut. Don't write to the values again.
	SetNotes(ctx context.Context, changes []Note) error

	// Notes returns up to limit (at least 1) notes whose key begins with prefix
	// and is greater than after, in ascending order of the keys' bytes. A page
	// that is empty is the end.
	Notes(ctx context.Context, prefix, after string, limit int) ([]Note, error)
}

// A Note is a value under a key. An empty value is no note: setting it removes
// what was there.
type Note struct {
	Key   string
	Value []byte
}

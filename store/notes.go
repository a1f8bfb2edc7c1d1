package store

import (
	"context"
	"fmt"
)

// Notes is an ability that stores may have beside Store: small facts that an
// embedder's own parts remember, such as which servers relay for which. They last as mail
// does. Like Store's, its methods are safe for concurrent use.
type Notes interface {
	// SetNotes makes all changes or none, and returns nil only once they would
	// survive a power cut. Of two changes of one key the last counts. Don't write
	// to the values again.
	SetNotes(ctx context.Context, changes []Note) error

	// Notes returns up to limit notes (a limit below 1 counts as 1) whose key begins
	// with prefix and is greater than after, in ascending order of the keys' bytes. A page
	// that is empty is the end.
	Notes(ctx context.Context, prefix, after string, limit int) ([]Note, error)
}

// NoteReader is an ability that stores may have beside Notes: to read one note, where a page of
// notes costs much more.
type NoteReader interface {
	// Note returns the value of a note. It gives ErrEmpty if there is none.
	Note(ctx context.Context, key string) ([]byte, error)
}

// A Note is a value under a key, which has 1 to MaxName bytes of any value. An
// empty value is no note: setting it removes the note.
type Note struct {
	Key   string
	Value []byte
}

// CheckNotes returns an error that wraps ErrInvalid for notes that no store keeps.
// Stores call it; embedders needn't.
func CheckNotes(changes []Note) error {
	for _, note := range changes {
		if note.Key == "" || len(note.Key) > MaxName {
			return fmt.Errorf("%w: a note's key has %d bytes", ErrInvalid, len(note.Key))
		}
	}
	return nil
}

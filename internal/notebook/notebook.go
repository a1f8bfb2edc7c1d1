// Package notebook reads and removes the notes of a store, and reads the clock for times in
// them.
package notebook

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/matrixrelay/relay/store"
)

// Each calls do with every note whose key begins with prefix, in order. An error of
// do ends it.
func Each(ctx context.Context, notes store.Notes, prefix string, do func(store.Note) error) error {
	const page = 1000
	for after := ""; ; {
		list, err := notes.Notes(ctx, prefix, after, page)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, note := range list {
			if err := do(note); err != nil {
				return err
			}
			after = note.Key
		}
	}
}

// Read returns the value of one note, nil if there is none.
func Read(ctx context.Context, notes store.Notes, key string) ([]byte, error) {
	if reader, ok := notes.(store.NoteReader); ok {
		value, err := reader.Note(ctx, key)
		if errors.Is(err, store.ErrEmpty) {
			return nil, nil
		}
		return value, err
	}
	list, err := notes.Notes(ctx, key, "", 1)
	if err != nil || len(list) == 0 || list[0].Key != key {
		return nil, err
	}
	return list[0].Value, nil
}

// removedAtOnce is how many notes are removed in one step. Stores take only so many changes
// at once, and others wait meanwhile. It is even, so that two that follow each other can
// go together.
const removedAtOnce = 500

// Remove makes changes that remove notes, some at a time.
func Remove(ctx context.Context, notes store.Notes, changes []store.Note) error {
	for some := range slices.Chunk(changes, removedAtOnce) {
		if err := notes.SetNotes(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// Clock returns the clock of a store, or one that stands still if it isn't a store.Timed.
func Clock(s store.Store) func(context.Context) (time.Duration, error) {
	if timed, ok := s.(store.Timed); ok {
		return timed.StoreTime
	}
	return func(context.Context) (time.Duration, error) { return 0, nil }
}

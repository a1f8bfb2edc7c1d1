// Package notebook reads the notes of a store, and the clock for times in them.
package notebook

import (
	"context"
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
	list, err := notes.Notes(ctx, key, "", 1)
	if err != nil || len(list) == 0 || list[0].Key != key {
		return nil, err
	}
	return list[0].Value, nil
}

// Clock returns the clock of a store, or one that stands still if it isn't a store.Timed.
func Clock(s store.Store) func(context.Context) (time.Duration, error) {
	if timed, ok := s.(store.Timed); ok {
		return timed.StoreTime
	}
	return func(context.Context) (time.Duration, error) { return 0, nil }
}

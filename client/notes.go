package client

import (
	"context"

	"github.com/matrixrelay/relay/store"
)

// eachNote calls do with every note whose key begins with prefix, in order.
func eachNote(ctx context.Context, notes store.Notes, prefix string, do func(store.Note) error) error {
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

package client

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/matrixrelay/relay/store"
)

// damagedPrefix begins the keys of notes that couldn't be read; their own keys follow.
const damagedPrefix = "damaged/"

// setAside keeps a note that can't be read under another key. One of many must not keep all
// others from being used; the operator can still look at it.
func setAside(ctx context.Context, notes store.Notes, logger *slog.Logger, note store.Note, why error) error {
	logger.Warn("client: a note can't be read, and was set aside", "note", note.Key, "error", why)
	key := damagedPrefix + note.Key
	aside := []store.Note{{Key: key[:min(len(key), store.MaxName)], Value: note.Value}, {Key: note.Key}}
	if err := notes.SetNotes(ctx, aside); err != nil {
		return fmt.Errorf("client: setting note %q aside: %w", note.Key, err)
	}
	return nil
}

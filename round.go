package relay

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A round goes through the notes of a kind, one for each server, again and again: some
// notes at each request that may add one, so that none is kept for ever and no request is
// slow.
type round struct {
	notes  store.Notes
	prefix string // of the keys; the server's name follows

	mu   sync.Mutex
	last string // the key that was last
}

// roundStep is more than one, so that the end comes closer also if new notes come before it.
const roundStep = 2

// step calls do with the next servers and their notes.
func (r *round) step(ctx context.Context, do func(server spec.ServerName, value []byte) error) error {
	r.mu.Lock()
	after := r.last
	r.mu.Unlock()
	list, err := r.notes.Notes(ctx, r.prefix, after, roundStep)
	if err != nil {
		return fmt.Errorf("relay: reading notes in turn: %w", err)
	}
	last := ""
	if len(list) == roundStep {
		last = list[roundStep-1].Key
	}
	r.mu.Lock()
	r.last = last
	r.mu.Unlock()
	for _, note := range list {
		if err := do(spec.ServerName(strings.TrimPrefix(note.Key, r.prefix)), note.Value); err != nil {
			return err
		}
	}
	return nil
}

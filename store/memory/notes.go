package memory

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/matrixrelay/relay/store"
)

var _ store.Notes = (*Store)(nil)

// SetNotes implements store.Notes.
func (s *Store) SetNotes(ctx context.Context, changes []store.Note) error {
	if err := store.CheckNotes(changes); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	for _, note := range changes {
		if len(note.Value) == 0 {
			delete(s.notes, note.Key)
		} else {
			s.notes[note.Key] = slices.Clone(note.Value)
		}
	}
	return nil
}

// Notes implements store.Notes.
func (s *Store) Notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	notes := []store.Note{}
	for _, key := range slices.Sorted(maps.Keys(s.notes)) {
		if key > after && strings.HasPrefix(key, prefix) && len(notes) < max(limit, 1) {
			notes = append(notes, store.Note{Key: key, Value: slices.Clone(s.notes[key])})
		}
	}
	return notes, nil
}

package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

var _ store.Notes = (*Store)(nil)

// SetNotes implements store.Notes.
func (s *Store) SetNotes(ctx context.Context, changes []store.Note) error {
	if err := store.CheckNotes(changes); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	size := int64(0)
	for _, note := range changes {
		size += int64(len(note.Key) + len(note.Value))
	}
	return s.writer.queue.Do(ctx, noting(changes), size)
}

// A noting sets notes.
type noting []store.Note

func (n noting) touches() []spec.ServerName { return nil }
func (n noting) ask(*batch, *pgx.Batch)     {}

func (n noting) decide(b *batch) error {
	for _, note := range n {
		b.notes[note.Key] = note.Value
	}
	return nil
}

// queueNotes writes them in the order of their keys, so that transactions that set
// the same don't wait for each other in a circle.
func (b *batch) queueNotes(q *pgx.Batch) {
	var set, values, drop [][]byte
	for _, key := range slices.Sorted(maps.Keys(b.notes)) {
		if value := b.notes[key]; len(value) > 0 {
			set, values = append(set, []byte(key)), append(values, value)
		} else {
			drop = append(drop, []byte(key))
		}
	}
	if len(set) > 0 {
		q.Queue(b.schema.sql(setNotesSQL), set, values)
	}
	if len(drop) > 0 {
		q.Queue(b.schema.sql(dropNotesSQL), drop)
	}
}

// Notes implements store.Notes.
func (s *Store) Notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	notes, err := s.reader.notes(ctx, prefix, after, max(limit, 1))
	return notes, s.closedOr(ctx, err)
}

func (r *reader) notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	notes := []store.Note{}
	err := r.query(ctx, "notes", func(rows pgx.Rows) error {
		for rows.Next() {
			var key []byte
			var note store.Note
			if err := rows.Scan(&key, &note.Value); err != nil {
				return err
			}
			if note.Key = string(key); !strings.HasPrefix(note.Key, prefix) {
				return nil
			}
			notes = append(notes, note)
		}
		return nil
	}, notesSQL, []byte(after), []byte(prefix), limit)
	if err != nil {
		return nil, err
	}
	return notes, nil
}

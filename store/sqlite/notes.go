package sqlite

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/matrixrelay/relay/store"
)

var _ store.Notes = (*Store)(nil)

// SetNotes implements store.Notes.
func (s *Store) SetNotes(ctx context.Context, changes []store.Note) error {
	if err := store.CheckNotes(changes); err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	size := int64(0)
	for _, note := range changes {
		size += int64(len(note.Key) + len(note.Value))
	}
	return s.writer.do(ctx, func(b *batch) error { return b.setNotes(changes) }, size)
}

func (b *batch) setNotes(changes []store.Note) error {
	for _, note := range changes {
		var err error
		if len(note.Value) == 0 {
			_, err = b.sql.dropNote.Exec(note.Key)
		} else {
			_, err = b.sql.setNote.Exec(note.Key, note.Value)
		}
		if err != nil {
			return fmt.Errorf("note: %w", err)
		}
	}
	return nil
}

// Notes implements store.Notes.
func (s *Store) Notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	notes, err := s.reader.readNotes(ctx, prefix, after, max(limit, 1))
	return notes, s.closedOr(err)
}

func (r *reader) readNotes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	notes := []store.Note{}
	err := r.with(ctx, func(c *readConn) (err error) {
		rows, err := c.notes.Query(after, prefix, limit)
		if err != nil {
			return wrap("notes", err)
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			var note store.Note
			if err := rows.Scan(&note.Key, &note.Value); err != nil {
				return wrap("notes", err)
			}
			if !strings.HasPrefix(note.Key, prefix) {
				return nil
			}
			notes = append(notes, note)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return notes, nil
}

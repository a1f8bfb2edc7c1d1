package jetstream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/matrixrelay/relay/store"
)

var (
	_ store.Notes      = (*Store)(nil)
	_ store.NoteReader = (*Store)(nil)
)

// SetNotes implements store.Notes. It takes up to 800 changes, and values that
// fit into one message of the server.
func (s *Store) SetNotes(ctx context.Context, changes []store.Note) error {
	const maxChanges = 800
	if err := store.CheckNotes(changes); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	size, most := int64(0), s.engine.maxMessage()
	for _, note := range changes {
		if len(note.Value) > most {
			return fmt.Errorf("jetstream: a note has a value of %d bytes", len(note.Value))
		}
		if len(note.Value) > 0 {
			size += int64(len(note.Key) + len(note.Value))
		}
	}
	if len(changes) > maxChanges {
		return fmt.Errorf("jetstream: %d changes of notes at once", len(changes))
	}
	return s.writer.do(ctx, func(b *batch) error {
		if size > 0 {
			if err := b.fits(size); err != nil {
				return err
			}
		}
		return b.setNotes(changes)
	}, size)
}

// setNotes writes a record that all such batches write, so that an older batch that
// is late, maybe that of a process that is gone, can't bring back an old note.
func (b *batch) setNotes(changes []store.Note) error {
	if len(changes) == 0 {
		return nil
	}
	noted, err := loadAnyway[noted](b, b.subjects.noted())
	if err != nil {
		return err
	}
	noted.changed = true
	for _, note := range changes {
		subject := b.subjects.note(note.Key)
		if len(note.Value) == 0 {
			b.vanish(subject, 0)
		} else {
			b.send(outgoing{subject: subject, data: note.Value})
		}
	}
	return nil
}

// A noted record says nothing but by being changed.
type noted struct{}

func (noted) code(*coder)          {}
func (noted) lasts() time.Duration { return 0 }

// Note implements store.NoteReader.
func (s *Store) Note(ctx context.Context, key string) (value []byte, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		m, err := s.engine.last(ctx, s.cache.subjects.note(key))
		value = m.data
		return err
	})
	if err == nil && len(value) == 0 {
		err = store.ErrEmpty
	}
	return value, err
}

// Notes implements store.Notes. It asks the server for the keys of all notes.
func (s *Store) Notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	notes := []store.Note{}
	err := s.read(ctx, func(ctx context.Context) error {
		keys, err := s.noteKeys(ctx, prefix, after)
		for limit = max(limit, 1); err == nil && len(keys) > 0 && len(notes) < limit; {
			page := keys[:min(limit-len(notes), len(keys), maxReads)]
			keys = keys[len(page):]
			var names []string
			for _, key := range page {
				names = append(names, s.cache.subjects.note(key))
			}
			var values []message
			values, err = s.engine.lastEach(ctx, names, s.engine.last)
			for i := range values {
				if len(values[i].data) > 0 { // it isn't just being removed
					notes = append(notes, store.Note{Key: page[i], Value: values[i].data})
				}
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return notes, nil
}

// noteKeys returns the keys that begin with prefix and come after one, sorted.
func (s *Store) noteKeys(ctx context.Context, prefix, after string) (keys []string, err error) {
	subjects, err := s.engine.matching(ctx, s.cache.subjects.notes())
	for subject := range subjects {
		key, ok := s.cache.subjects.name(".note.", subject)
		if ok && key > after && strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, err
}

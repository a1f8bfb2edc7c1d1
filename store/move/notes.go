package move

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
)

const (
	// ownNotes begins the keys of this package's notes. The old store
	// notes which move it is left in, and when that was last so; the new one
	// which move it has taken the notes of.
	ownNotes  = "relay.move/"
	leftNote  = ownNotes + "left"
	takenNote = ownNotes + "taken"
	sameNote  = ownNotes + "same" // is there for a moment

	// outboxNotes are the notes of client.Outbox: IDs, which change.
	outboxNotes = "outbox/"

	// markEvery is how often leftNote is written while mail is moved.
	markEvery = 10 * time.Minute

	notePage = 256
)

var errNoNotes = errors.New("move: the new store keeps no notes")

// SetNotes implements store.Notes, if the new store does.
func (s *Store) SetNotes(ctx context.Context, changes []store.Note) error {
	notes, ok := s.to.(store.Notes)
	if !ok {
		return errNoNotes
	}
	return notes.SetNotes(ctx, changes)
}

// Note implements store.NoteReader, if the new store is a store.Notes.
func (s *Store) Note(ctx context.Context, key string) ([]byte, error) {
	notes, ok := s.to.(store.Notes)
	if !ok {
		return nil, errNoNotes
	}
	if strings.HasPrefix(key, ownNotes) {
		return nil, store.ErrEmpty
	}
	value, err := notebook.Read(ctx, notes, key)
	if err == nil && value == nil {
		err = store.ErrEmpty
	}
	return value, err
}

// Notes implements store.Notes, if the new store does.
func (s *Store) Notes(ctx context.Context, prefix, after string, limit int) ([]store.Note, error) {
	notes, ok := s.to.(store.Notes)
	if !ok {
		return nil, errNoNotes
	}
	for {
		page, err := notes.Notes(ctx, prefix, after, limit)
		if err != nil || len(page) == 0 {
			return page, err
		}
		after = page[len(page)-1].Key
		kept := page[:0]
		for _, note := range page {
			if !strings.HasPrefix(note.Key, ownNotes) {
				kept = append(kept, note)
			}
		}
		if len(kept) > 0 {
			return kept, nil
		}
	}
}

// begin makes sure that this move may begin, or go on, and brings the notes over
// if it begins.
func (s *Store) begin(ctx context.Context) error {
	from, fromNotes := s.from.(store.Notes)
	to, toNotes := s.to.(store.Notes)
	if toNotes {
		if err := s.mayTake(ctx, to); err != nil {
			return err
		}
	}
	if !fromNotes {
		return nil
	}
	if toNotes {
		if err := areTwo(ctx, from, to); err != nil {
			return err
		}
	}
	left, err := readNote(ctx, from, leftNote)
	if err != nil {
		return err
	}
	_, s.marks.move, _ = strings.Cut(left, " ")
	if toNotes {
		taken, err := readNote(ctx, to, takenNote)
		if err != nil {
			return err
		}
		if taken == "" || taken != s.marks.move {
			s.marks.move = rand.Text()
			ahead, err := s.ahead(ctx)
			if err != nil {
				return err
			}
			if err := takeNotes(ctx, from, to, s.marks.move, ahead); err != nil {
				return err
			}
		}
	}
	return s.marks.write(ctx, s.from)
}

// areTwo fails if both are the same store, whose mail would all be taken for
// copies: a note in one must not be in the other.
func areTwo(ctx context.Context, from, to store.Notes) error {
	mark := rand.Text()
	if err := to.SetNotes(ctx, []store.Note{{Key: sameNote, Value: []byte(mark)}}); err != nil {
		return err
	}
	seen, err := readNote(ctx, from, sameNote)
	if err == nil && seen == mark {
		err = ErrSame
	}
	return errors.Join(err, to.SetNotes(ctx, []store.Note{{Key: sameNote}}))
}

// mayTake fails while a store may remember mail that was moved out of it.
func (s *Store) mayTake(ctx context.Context, to store.Notes) error {
	left, err := readNote(ctx, to, leftNote)
	if err != nil || left == "" {
		return err
	}
	at, _, _ := strings.Cut(left, " ")
	millis, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return fmt.Errorf("note %s: %w", leftNote, err)
	}
	now, err := clockOf(ctx, s.to)
	if err != nil {
		return err
	}
	ago := max(now-time.Duration(millis)*time.Millisecond, 0) // a crash may have set its clock back
	if wait := s.options.Retention + 2*markEvery - ago; wait > 0 && s.options.Retention > 0 {
		return fmt.Errorf("%w: try again when it was open for another %v", ErrTooSoon, wait.Round(time.Second))
	}
	return to.SetNotes(ctx, []store.Note{{Key: leftNote}})
}

// clockOf is where the clock stands by which a store remembers mail that left it. A
// store that doesn't tell is judged by the clock of the machine.
func clockOf(ctx context.Context, s store.Store) (time.Duration, error) {
	if timed, ok := s.(store.Timed); ok {
		return timed.StoreTime(ctx)
	}
	return time.Duration(time.Now().UnixMilli()) * time.Millisecond, nil
}

// ahead is by how much the new store's clock is ahead of the old one's, if both tell.
func (s *Store) ahead(ctx context.Context) (time.Duration, error) {
	_, fromTells := s.from.(store.Timed)
	_, toTells := s.to.(store.Timed)
	if !fromTells || !toTells {
		return 0, nil
	}
	before, err := clockOf(ctx, s.from)
	if err != nil {
		return 0, fmt.Errorf("move: read the old store's clock: %w", err)
	}
	now, err := clockOf(ctx, s.to)
	if err != nil {
		return 0, fmt.Errorf("move: read the new store's clock: %w", err)
	}
	return now - before, nil
}

// takeNotes copies all notes that aren't there, to where the clock is ahead by that much.
func takeNotes(ctx context.Context, from, to store.Notes, move string, ahead time.Duration) error {
	after := ""
	for {
		page, err := from.Notes(ctx, "", after, notePage)
		if err != nil {
			return fmt.Errorf("read notes: %w", err)
		}
		if len(page) == 0 {
			break
		}
		last := page[len(page)-1].Key
		there, err := keysBetween(ctx, to, after, last)
		if err != nil {
			return fmt.Errorf("read notes: %w", err)
		}
		missing := page[:0]
		for _, note := range page {
			if !there[note.Key] && !strings.HasPrefix(note.Key, ownNotes) && !strings.HasPrefix(note.Key, outboxNotes) {
				missing = append(missing, notebook.Shifted(note, ahead))
			}
		}
		if err := to.SetNotes(ctx, missing); err != nil {
			return fmt.Errorf("copy notes: %w", err)
		}
		after = last
	}
	return to.SetNotes(ctx, []store.Note{{Key: takenNote, Value: []byte(move)}})
}

// keysBetween returns the keys greater than after, up to last.
func keysBetween(ctx context.Context, notes store.Notes, after, last string) (map[string]bool, error) {
	keys := make(map[string]bool)
	for {
		page, err := notes.Notes(ctx, "", after, notePage)
		if err != nil || len(page) == 0 {
			return keys, err
		}
		for _, note := range page {
			if note.Key > last {
				return keys, nil
			}
			keys[note.Key] = true
			after = note.Key
		}
	}
}

func readNote(ctx context.Context, notes store.Notes, key string) (string, error) {
	page, err := notes.Notes(ctx, key, "", 1)
	if err != nil || len(page) == 0 || page[0].Key != key {
		return "", err
	}
	return string(page[0].Value), nil
}

// marks keep the note in the old store that mail was moved out of it.
type marks struct {
	move string // its name

	mu   sync.Mutex
	last time.Time // of this process
}

// refresh writes the note if it is getting old.
func (m *marks) refresh(ctx context.Context, from store.Store) error {
	m.mu.Lock()
	old := time.Since(m.last) >= markEvery
	m.mu.Unlock()
	if !old {
		return nil
	}
	return m.write(ctx, from)
}

func (m *marks) write(ctx context.Context, from store.Store) error {
	began := time.Now()
	if notes, ok := from.(store.Notes); ok {
		now, err := clockOf(ctx, from)
		if err != nil {
			return fmt.Errorf("move: read the old store's clock: %w", err)
		}
		value := strconv.FormatInt(now.Milliseconds(), 10) + " " + m.move
		if err := notes.SetNotes(ctx, []store.Note{{Key: leftNote, Value: []byte(value)}}); err != nil {
			return fmt.Errorf("move: note that mail is moved out: %w", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = began
	return nil
}

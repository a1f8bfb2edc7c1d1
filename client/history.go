package client

import (
	"container/list"
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
)

// DefaultMaxHistory is how many transactions a History remembers by default, each
// for about 300 bytes, twice that if it came unproven and proven.
const DefaultMaxHistory = 100_000

const seenPrefix = "seen/"

// A History remembers which transactions were handled, by origin and content, so
// that those which come through a second relay are dropped. When it is full it
// forgets those that came up longest ago.
//
// Content that was sent twice on purpose, such as two typing notices that are
// alike, isn't dropped: transaction IDs tell them apart where they are known,
// which deployed relays don't say. There, the second one of a relay is one too
// many only if no more than one was handled.
//
// Where proofs of origin are checked, one that came unproven doesn't make a proven
// one a copy: a relay may have stripped the proof, or made it up. It is handled
// again then. A transaction that came directly counts as proven. Once it was handled
// proven, all others are copies.
//
// Make one with NewHistory or OpenHistory. It is safe for concurrent use.
type History struct {
	most  int
	notes store.Notes // nil: nothing is kept

	keeping sync.Mutex // while older ones are written down

	mu       sync.Mutex
	isKept   bool                      // everything is written down, since a relay may bring copies
	known    map[seenKey]*list.Element // of *sighting
	order    list.List                 // the one that came up longest ago first
	sequence int64
	busy     map[seenKey]chan struct{} // closed when its handling ends
}

type seenKey [16]byte

// NewHistory makes a History that forgets everything with the process. It remembers
// up to that many transactions. Zero: DefaultMaxHistory. Negative: no limit.
func NewHistory(most int) *History {
	defaults.Bounds(&most, DefaultMaxHistory, math.MaxInt)
	return &History{most: most, known: make(map[seenKey]*list.Element), busy: make(map[seenKey]chan struct{})}
}

// OpenHistory makes a History that is kept in a store's notes, and reads those that
// are there. One store keeps one History. It writes nothing before this server has had a
// relay: until then no copies can come.
func OpenHistory(ctx context.Context, notes store.Notes, most int) (*History, error) {
	s := NewHistory(most)
	s.notes = notes
	var read []*sighting
	err := notebook.Each(ctx, notes, seenPrefix, func(note store.Note) error {
		s.isKept = true
		if one, err := readSighting(note); err == nil { // else it costs a copy, not the mail
			read = append(read, one)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("client: seen: %w", err)
	}
	slices.SortFunc(read, func(a, b *sighting) int { return int(a.Sequence - b.Sequence) })
	for _, one := range read {
		s.known[one.key] = s.order.PushBack(one)
		s.sequence = one.Sequence
	}
	return s, nil
}

func seenKeyOf(origin spec.ServerName, digest [sha256.Size]byte) seenKey {
	sum := sha256.Sum256(append([]byte(origin+"\n"), digest[:]...))
	return seenKey(sum[:16])
}

// once runs handle unless the transaction was handled already, and remembers
// it if handle succeeds. While another goroutine handles the same, it waits.
// An error means that it must come again: handle's, the context's, or that
// of writing it down.
func (s *History) once(ctx context.Context, key seenKey, from source, handle func() error) (dealing, error) {
	if from.relay != "" {
		if err := s.keep(ctx); err != nil {
			return isRepeated, err
		}
	}
	for {
		busy := s.begin(key)
		if busy == nil {
			break
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return isRepeated, ctx.Err()
		}
	}
	defer s.end(key)
	one := s.look(key)
	if one.had(from) {
		if one.isUnwritten {
			return isRepeated, s.remember(ctx, one)
		}
		return isRepeated, nil
	}
	came := one.judge(from)
	if came.toHandle() {
		if err := handle(); err != nil {
			return came, err
		}
	}
	one.count(from, came)
	return came, s.remember(ctx, one)
}

// begin makes the key busy, or returns a channel that is closed when it no longer is.
func (s *History) begin(key seenKey) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if busy := s.busy[key]; busy != nil {
		return busy
	}
	s.busy[key] = make(chan struct{})
	return nil
}

func (s *History) end(key seenKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.busy[key])
	delete(s.busy, key)
}

// look returns a copy of the record of a content.
func (s *History) look(key seenKey) sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := sighting{key: key}
	if e := s.known[key]; e != nil {
		have := e.Value.(*sighting)
		one.counts, one.Unproven, one.isUnwritten = have.counts.clone(), have.Unproven.clone(), have.isUnwritten
	}
	return one
}

// remember writes down how a transaction was dealt with.
func (s *History) remember(ctx context.Context, one sighting) error {
	changes := s.add(&one)
	if changes == nil {
		return nil
	}
	// That it was handled must be written down, even if we are being closed.
	err := s.notes.SetNotes(context.WithoutCancel(ctx), changes)
	s.mu.Lock()
	defer s.mu.Unlock()
	one.isUnwritten = err != nil
	if err != nil {
		return fmt.Errorf("client: seen: %w", err)
	}
	return nil
}

// notesAtOnce bounds the notes that are written with one call.
const notesAtOnce = 1000

// keep has everything written down from now on, and first the transactions that came
// before: from now on a relay may bring copies.
func (s *History) keep(ctx context.Context) error {
	if s.notes == nil {
		return nil
	}
	s.keeping.Lock()
	defer s.keeping.Unlock()
	after := int64(0)
	for {
		var changes []store.Note
		if changes, after = s.unkept(after); changes == nil {
			return nil
		}
		if err := s.notes.SetNotes(ctx, changes); err != nil {
			return fmt.Errorf("client: seen: %w", err)
		}
	}
}

// unkept returns the next notes that aren't written yet, after that sequence, and the
// sequence of the last of them. If there are none, everything is kept from then on.
func (s *History) unkept(after int64) (changes []store.Note, last int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isKept {
		return nil, after
	}
	for e := s.order.Front(); e != nil && len(changes) < notesAtOnce; e = e.Next() {
		if one := e.Value.(*sighting); one.Sequence > after {
			changes, after = append(changes, one.written()), one.Sequence
		}
	}
	s.isKept = changes == nil
	return changes, after
}

// add remembers it here, and returns the notes that change with it.
func (s *History) add(one *sighting) (changes []store.Note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sequence++
	one.Sequence = s.sequence
	if e := s.known[one.key]; e != nil {
		s.order.Remove(e)
	}
	s.known[one.key] = s.order.PushBack(one)
	for len(s.known) > s.most {
		oldest := s.order.Remove(s.order.Front()).(*sighting)
		delete(s.known, oldest.key)
		changes = append(changes, oldest.note(nil))
	}
	if s.notes == nil || !s.isKept {
		return nil
	}
	return append(changes, one.written())
}

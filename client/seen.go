package client

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// DefaultMaxSeen is how many transactions a Seen remembers by default, each
// for about 300 bytes.
const DefaultMaxSeen = 100_000

const seenPrefix = "seen/"

// A Seen remembers which transactions were handled, by origin and content, so
// that those which come through a second relay are dropped. When it is full it
// forgets those that came up longest ago.
//
// Content that was sent twice on purpose, such as two typing notices that are
// alike, isn't dropped: transaction IDs tell them apart where they are known,
// which deployed relays don't say. There, the second one of a relay is one too
// many only if no more than one was handled. Make one with NewSeen or OpenSeen.
// It is safe for concurrent use.
type Seen struct {
	most  int
	notes store.Notes // nil: nothing is kept

	mu       sync.Mutex
	known    map[seenKey]*list.Element // of *sighting
	order    list.List                 // the one that came up longest ago first
	sequence int64
	busy     map[seenKey]chan struct{} // closed when its handling ends
}

type seenKey [16]byte

// A sighting is what is known of one content. It is stored as JSON.
type sighting struct {
	key      seenKey
	Sequence int64                         `json:"s"`
	Handled  int                           `json:"n"`           // how often
	IDs      []uint64                      `json:"i,omitempty"` // hashes of the IDs of those whose ID is known
	Known    int                           `json:"k,omitempty"` // how many IDs there were
	From     map[spec.ServerName]appearing `json:"f"`           // by relay; "": directly
}

// maxIDs bounds sighting.IDs. One over it that comes again is taken for new.
const maxIDs = 32

// A source is where a transaction came from this time.
type source struct {
	relay spec.ServerName                 // empty: from its origin
	entry int64                           // at that relay
	id    gomatrixserverlib.TransactionID // empty: unknown
}

// idHash is 0 if the ID is unknown.
func (s source) idHash() uint64 {
	if s.id == "" {
		return 0
	}
	sum := sha256.Sum256([]byte(s.id))
	return binary.BigEndian.Uint64(sum[:]) | 1
}

// appearing is how often a relay had it, and the newest entry that was it.
type appearing struct {
	Count int   `json:"n"`
	Entry int64 `json:"e"`
}

// NewSeen makes a Seen that forgets everything with the process. It remembers
// up to that many transactions; 0 means DefaultMaxSeen.
func NewSeen(most int) *Seen {
	setDefault(&most, DefaultMaxSeen)
	return &Seen{most: most, known: make(map[seenKey]*list.Element), busy: make(map[seenKey]chan struct{})}
}

// OpenSeen makes a Seen that is kept in a store's notes, and reads what is
// there. One store keeps one Seen.
func OpenSeen(ctx context.Context, notes store.Notes, most int) (*Seen, error) {
	s := NewSeen(most)
	s.notes = notes
	var read []*sighting
	err := eachNote(ctx, notes, seenPrefix, func(note store.Note) error {
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

func readSighting(note store.Note) (*sighting, error) {
	one := &sighting{}
	if err := json.Unmarshal(note.Value, one); err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimPrefix(note.Key, seenPrefix))
	if err != nil || len(key) != len(one.key) {
		return nil, fmt.Errorf("%q is no key of a Seen", note.Key)
	}
	copy(one.key[:], key)
	return one, nil
}

func seenKeyOf(origin spec.ServerName, digest [sha256.Size]byte) seenKey {
	sum := sha256.Sum256(append([]byte(origin+"\n"), digest[:]...))
	return seenKey(sum[:16])
}

// once runs handle unless the transaction was handled already, and remembers
// it if handle succeeds. While another goroutine handles the same, it waits.
// An error means that it must come again: handle's, the context's, or that
// of writing it down.
func (s *Seen) once(ctx context.Context, key seenKey, from source, handle func() error) (handled bool, err error) {
	for {
		busy := s.begin(key)
		if busy == nil {
			break
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	defer s.end(key)
	one := s.look(key)
	if one.had(from) {
		return false, nil
	}
	if one.isNew(from) {
		if err := handle(); err != nil {
			return false, err
		}
		one.Handled++
		handled = true
	}
	one.count(from)
	return handled, s.remember(ctx, one)
}

// had reports whether just this was dealt with before: its acknowledgement, or
// our answer to its origin, was lost.
func (one *sighting) had(from source) bool {
	if from.relay == "" {
		return slices.Contains(one.IDs, from.idHash())
	}
	return one.From[from.relay].Entry >= from.entry
}

// isNew reports whether this is other mail than what was handled.
func (one *sighting) isNew(from source) bool {
	id := from.idHash()
	switch {
	case id != 0 && slices.Contains(one.IDs, id):
		return false
	case id != 0 && max(one.Known, len(one.IDs)) == one.Handled:
		return true
	default: // one that was handled may be this
		return one.From[from.relay].Count >= one.Handled
	}
}

// count notes that it was dealt with.
func (one *sighting) count(from source) {
	one.From[from.relay] = appearing{one.From[from.relay].Count + 1, from.entry}
	if id := from.idHash(); id != 0 && !slices.Contains(one.IDs, id) {
		one.Known = max(one.Known, len(one.IDs)) + 1
		one.IDs = append(one.IDs, id)
		one.IDs = one.IDs[max(0, len(one.IDs)-maxIDs):]
	}
}

// begin makes the key busy, or returns what says when it no longer is.
func (s *Seen) begin(key seenKey) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if busy := s.busy[key]; busy != nil {
		return busy
	}
	s.busy[key] = make(chan struct{})
	return nil
}

func (s *Seen) end(key seenKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.busy[key])
	delete(s.busy, key)
}

// look returns a copy of what is known.
func (s *Seen) look(key seenKey) sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := sighting{key: key, From: make(map[spec.ServerName]appearing)}
	if e := s.known[key]; e != nil {
		have := e.Value.(*sighting)
		one.Handled, one.Known, one.IDs = have.Handled, have.Known, slices.Clone(have.IDs)
		maps.Copy(one.From, have.From)
	}
	return one
}

// remember writes down what has become of a transaction.
func (s *Seen) remember(ctx context.Context, one sighting) error {
	changes := s.add(&one)
	if s.notes == nil {
		return nil
	}
	// What was handled must be written down, even if we are being closed.
	if err := s.notes.SetNotes(context.WithoutCancel(ctx), changes); err != nil {
		return fmt.Errorf("client: seen: %w", err)
	}
	return nil
}

// add remembers it here, and returns what that changes in the notes.
func (s *Seen) add(one *sighting) (changes []store.Note) {
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
	if s.notes == nil {
		return nil
	}
	value, err := json.Marshal(one)
	if err != nil { // numbers and names: can't be
		return changes
	}
	return append(changes, one.note(value))
}

func (one *sighting) note(value []byte) store.Note {
	return store.Note{Key: seenPrefix + hex.EncodeToString(one.key[:]), Value: value}
}

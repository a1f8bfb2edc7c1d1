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
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
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

	mu       sync.Mutex
	known    map[seenKey]*list.Element // of *sighting
	order    list.List                 // the one that came up longest ago first
	sequence int64
	busy     map[seenKey]chan struct{} // closed when its handling ends
}

type seenKey [16]byte

// A sighting is the record of one content. It is stored as JSON.
type sighting struct {
	key      seenKey
	Sequence int64 `json:"s"`
	counts

	// Unproven are those that came so where proofs are checked. They aren't among
	// the others.
	Unproven counts `json:"u,omitzero"`

	isUnwritten bool // writing it down has failed
}

// counts are the numbers of transactions of one content.
type counts struct {
	Handled int                           `json:"n,omitempty"` // how often
	IDs     []uint64                      `json:"i,omitempty"` // hashes of the IDs of those whose ID is known
	Known   int                           `json:"k,omitempty"` // how many IDs there were
	Guessed bool                          `json:"g,omitempty"` // one of them may be that of a copy only
	Quiet   bool                          `json:"q,omitempty"` // there are no receipts for it
	From    map[spec.ServerName]appearing `json:"f,omitempty"` // by relay; "": directly
}

// IsZero has encoding/json leave out empty counts.
func (c counts) IsZero() bool { return c.Handled == 0 && len(c.IDs) == 0 && len(c.From) == 0 }

func (c counts) clone() counts {
	c.IDs, c.From = slices.Clone(c.IDs), maps.Clone(c.From)
	return c
}

// maxIDs bounds counts.IDs. One over it that comes again is taken for new.
const maxIDs = 32

// A source is where a transaction came from this time.
type source struct {
	relay spec.ServerName                 // empty: from its origin
	entry int64                           // at that relay
	id    gomatrixserverlib.TransactionID // empty: unknown

	// Unproven says that its proof was looked for and isn't there, or couldn't be
	// checked.
	unproven bool

	quiet bool // see hasReceiptsOnly
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

// NewHistory makes a History that forgets everything with the process. It remembers
// up to that many transactions. Zero: DefaultMaxHistory. Negative: no limit.
func NewHistory(most int) *History {
	defaults.Bounds(&most, DefaultMaxHistory, math.MaxInt)
	return &History{most: most, known: make(map[seenKey]*list.Element), busy: make(map[seenKey]chan struct{})}
}

// OpenHistory makes a History that is kept in a store's notes, and reads those that
// are there. One store keeps one History.
func OpenHistory(ctx context.Context, notes store.Notes, most int) (*History, error) {
	s := NewHistory(most)
	s.notes = notes
	var read []*sighting
	err := notebook.Each(ctx, notes, seenPrefix, func(note store.Note) error {
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
		return nil, fmt.Errorf("%q is no key of a History", note.Key)
	}
	copy(one.key[:], key)
	return one, nil
}

func seenKeyOf(origin spec.ServerName, digest [sha256.Size]byte) seenKey {
	sum := sha256.Sum256(append([]byte(origin+"\n"), digest[:]...))
	return seenKey(sum[:16])
}

// A dealing says how a transaction that came was dealt with.
type dealing int

const (
	isHandled  dealing = iota
	isAlike            // handled, too, as nothing tells whether this relay repeats itself
	isCopy             // another has brought it before
	isRepeated         // this relay has brought it before, or its origin itself
)

func (o dealing) toHandle() bool { return o == isHandled || o == isAlike }

// A dealt is how a transaction that came was dealt with, and whether it is certain that
// just this one was handled, now or before, and not only one that is alike.
type dealt struct {
	dealing
	certain bool
}

// once runs handle unless the transaction was handled already, and remembers
// it if handle succeeds. While another goroutine handles the same, it waits.
// An error means that it must come again: handle's, the context's, or that
// of writing it down.
func (s *History) once(ctx context.Context, key seenKey, from source, handle func() error) (dealt, error) {
	for {
		busy := s.begin(key)
		if busy == nil {
			break
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return dealt{dealing: isRepeated}, ctx.Err()
		}
	}
	defer s.end(key)
	one := s.look(key)
	came := dealt{isRepeated, one.isCertain(from)}
	if one.had(from) {
		if one.isUnwritten {
			return came, s.remember(ctx, one)
		}
		return came, nil
	}
	came.dealing = one.judge(from)
	if came.toHandle() {
		if err := handle(); err != nil {
			return came, err
		}
		came.certain = true
	}
	one.count(from, came.dealing)
	return came, s.remember(ctx, one)
}

// had reports whether just this was dealt with before: its acknowledgement, or
// our answer to its origin, was lost.
func (one *sighting) had(from source) bool {
	switch {
	case from.relay == "":
		return slices.Contains(one.IDs, from.idHash())
	case one.From[from.relay].Entry >= from.entry:
		return true
	}
	return from.unproven && one.Unproven.From[from.relay].Entry >= from.entry
}

// judge tells how to deal with a transaction: whether it is other mail than the
// transactions that were handled. Those that were handled unproven count only for the
// unproven.
func (one *sighting) judge(from source) dealing {
	handled, brought := one.Handled, one.From[from.relay].Count
	known, identified := one.knows(from), one.identified()
	if from.unproven {
		handled, brought = max(handled, one.Unproven.Handled), brought+one.Unproven.From[from.relay].Count
		known = known || one.Unproven.knows(from)
		identified = identified && one.Unproven.identified()
	}
	switch {
	case from.id != "" && !known && identified:
		return isHandled
	case brought < handled: // one that was handled may be this
		return isCopy
	case known:
		return isRepeated
	case handled > 0:
		return isAlike
	}
	return isHandled
}

// knows reports whether one that was dealt with had the same ID.
func (c *counts) knows(from source) bool {
	return from.id != "" && slices.Contains(c.IDs, from.idHash())
}

// isCertain reports whether one with the same ID was handled for certain, which didn't come
// unproven where proofs are checked.
func (one *sighting) isCertain(from source) bool { return one.counts.knows(from) && !one.Guessed }

// identified reports whether the IDs of all that were handled are known.
func (c *counts) identified() bool { return c.known() == c.Handled }

func (c *counts) known() int { return max(c.Known, len(c.IDs)) }

// count notes that it was dealt with.
func (one *sighting) count(from source, came dealing) {
	c := &one.counts
	if from.unproven {
		c = &one.Unproven
	}
	if came.toHandle() {
		c.Handled++
	}
	c.Quiet = from.quiet
	if c.From == nil {
		c.From = make(map[spec.ServerName]appearing)
	}
	c.From[from.relay] = appearing{c.From[from.relay].Count + 1, from.entry}
	if from.id != "" && !c.knows(from) && c.known() < c.Handled {
		c.Known, c.Guessed = c.known()+1, c.Guessed || !came.toHandle()
		c.IDs = append(c.IDs, from.idHash())
		c.IDs = c.IDs[max(0, len(c.IDs)-maxIDs):]
	}
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

// has reports whether a transaction of that content and ID was handled for certain, and is
// written down, and whether there are no receipts for it.
func (s *History) has(key seenKey, id gomatrixserverlib.TransactionID) (known, quiet bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.known[key]
	if e == nil {
		return false, false
	}
	one := e.Value.(*sighting)
	return !one.isUnwritten && one.isCertain(source{id: id}), one.Quiet
}

// remember writes down how a transaction was dealt with.
func (s *History) remember(ctx context.Context, one sighting) error {
	changes := s.add(&one)
	if s.notes == nil {
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

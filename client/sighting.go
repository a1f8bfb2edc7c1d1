package client

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

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

// A dealing says how a transaction that came was dealt with.
type dealing int

const (
	isHandled  dealing = iota
	isAlike            // handled, too, as nothing tells whether this relay repeats itself
	isCopy             // another has brought it before
	isRepeated         // this relay has brought it before, or its origin itself
)

func (o dealing) toHandle() bool { return o == isHandled || o == isAlike }

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
	if c.From == nil {
		c.From = make(map[spec.ServerName]appearing)
	}
	c.From[from.relay] = appearing{c.From[from.relay].Count + 1, from.entry}
	if from.id != "" && !c.knows(from) && c.known() < c.Handled {
		c.Known = c.known() + 1
		c.IDs = append(c.IDs, from.idHash())
		c.IDs = c.IDs[max(0, len(c.IDs)-maxIDs):]
	}
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

// written is the note that says it.
func (one *sighting) written() store.Note {
	value, err := json.Marshal(one)
	if err != nil { // numbers and names: can't be
		return one.note(nil)
	}
	return one.note(value)
}

func (one *sighting) note(value []byte) store.Note {
	return store.Note{Key: seenPrefix + hex.EncodeToString(one.key[:]), Value: value}
}

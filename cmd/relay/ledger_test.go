package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

// A letter is one content of one transaction: it must arrive exactly once if
// it was ever answered with 200, and at most once if not.
type letter struct {
	gomatrixserverlib.Transaction

	begun    int64 // when it was first sent
	answered int64 // when it was first answered with 200; 0: never
	entry    int64 // the ID that it was handed out with; 0: not yet

	// acknowledging says that a request that acknowledges it was made. If the
	// relay was killed meanwhile, the letter may come again, with its ID.
	acknowledging bool
}

// A ledger has all letters of a test and checks the mail that the relay hands out
// against them. Time is a count of events.
type ledger struct {
	mu      sync.Mutex
	now     int64
	letters map[[sha256.Size]byte]*letter
	boxes   map[spec.ServerName]*box
}

// A box is the mail that a destination has seen.
type box struct {
	letters   []*letter
	lastID    int64
	lastBegun int64 // the latest that any letter it has got was begun
}

func newLedger() *ledger {
	return &ledger{letters: make(map[[sha256.Size]byte]*letter), boxes: make(map[spec.ServerName]*box)}
}

// contentKey identifies a letter by its origin and its events, byte for byte.
func contentKey(t gomatrixserverlib.Transaction) (key [sha256.Size]byte) {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s %d", t.Origin, len(t.PDUs))
	for _, pdu := range t.PDUs {
		_, _ = fmt.Fprintf(h, " %d %s", len(pdu), pdu)
	}
	h.Sum(key[:0])
	return key
}

// begin notes that a transaction is being sent, once more perhaps.
func (l *ledger) begin(t gomatrixserverlib.Transaction) *letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now++
	key := contentKey(t)
	if known := l.letters[key]; known != nil {
		return known
	}
	written := &letter{Transaction: t, begun: l.now}
	l.letters[key] = written
	b := l.box(t.Destination)
	b.letters = append(b.letters, written)
	return written
}

func (l *ledger) box(destination spec.ServerName) *box {
	if l.boxes[destination] == nil {
		l.boxes[destination] = &box{}
	}
	return l.boxes[destination]
}

// answer notes that the relay has taken a letter.
func (l *ledger) answer(a *letter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now++
	if a.answered == 0 {
		a.answered = l.now
	}
}

// acknowledge notes that an entry is about to be acknowledged (0: none) and
// returns the time.
func (l *ledger) acknowledge(destination spec.ServerName, entry int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now++
	for _, a := range l.box(destination).letters {
		if a.entry > 0 && a.entry <= entry {
			a.acknowledging = true
		}
	}
	return l.now
}

// acknowledged returns entries that have been acknowledged.
func (l *ledger) acknowledged(destination spec.ServerName) (entries []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.box(destination).letters {
		if a.acknowledging {
			entries = append(entries, a.entry)
		}
	}
	return entries
}

// receive checks the mail that was handed out after an entry of the same run.
func (l *ledger) receive(destination spec.ServerName, after int64, answer fclient.RespGetRelayTransaction) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.box(destination)
	got := l.letters[contentKey(answer.Transaction)]
	switch {
	case got == nil:
		return fmt.Errorf("entry %d from %s has PDUs that nobody sent", answer.EntryID, answer.Transaction.Origin)
	case got.Destination != destination:
		return fmt.Errorf("entry %d is the mail of %s", answer.EntryID, got.Destination)
	case answer.EntryID <= after:
		return fmt.Errorf("entry %d comes after %d", answer.EntryID, after)
	case got.entry == answer.EntryID:
		return nil // again: it wasn't acknowledged
	case got.entry != 0:
		return fmt.Errorf("%s is there twice, as entries %d and %d", got.TransactionID, got.entry, answer.EntryID)
	case answer.EntryID <= b.lastID:
		return fmt.Errorf("%s is new, but its entry %d is not above %d", got.TransactionID, answer.EntryID, b.lastID)
	case got.answered != 0 && got.answered < b.lastBegun:
		return fmt.Errorf("%s, entry %d, comes after mail that was begun when it had been answered", got.TransactionID, answer.EntryID)
	}
	got.entry, b.lastID, b.lastBegun = answer.EntryID, answer.EntryID, max(b.lastBegun, got.begun)
	return nil
}

// empty checks that nothing is owed to a destination whose mailbox the relay
// says was empty at some time after since.
func (l *ledger) empty(destination spec.ServerName, since int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.box(destination).letters {
		if a.answered != 0 && a.answered < since && !a.acknowledging {
			return fmt.Errorf("%s from %s was answered with 200 and is lost (handed out: %v)", a.TransactionID, a.Origin, a.entry != 0)
		}
	}
	return nil
}

// count counts the letters by their fate.
func (l *ledger) count() (sent, answered, arrivedUnanswered int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.letters {
		sent++
		if a.answered != 0 {
			answered++
		} else if a.entry != 0 {
			arrivedUnanswered++
		}
	}
	return sent, answered, arrivedUnanswered
}

// TestLedgerNotices has the ledger meet things that a relay must never do.
func TestLedgerNotices(t *testing.T) {
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b").ServerName
	first, second := a.Transaction(b, "t1", 2, 300), a.Transaction(b, "t2", 2, 300)
	changed := first
	changed.PDUs = slices.Clone(first.PDUs[:1])
	entry := func(id int64, t gomatrixserverlib.Transaction) fclient.RespGetRelayTransaction {
		return fclient.RespGetRelayTransaction{EntryID: id, Transaction: t, EntriesQueued: true}
	}
	for name, test := range map[string]struct {
		meet func(*ledger) error
		want string
	}{
		"all well": {func(l *ledger) error {
			return errors.Join(l.receive(b, 0, entry(1, first)), l.receive(b, 1, entry(2, second)),
				l.receive(b, 0, entry(1, first)), l.empty(b, l.acknowledge(b, 2)))
		}, ""},
		"lost": {func(l *ledger) error { return l.empty(b, l.acknowledge(b, 0)) }, "is lost"},
		"lost when it came": {func(l *ledger) error {
			return errors.Join(l.receive(b, 0, entry(1, first)), l.empty(b, l.acknowledge(b, 0)))
		}, "is lost"},
		"twice": {func(l *ledger) error {
			return errors.Join(l.receive(b, 0, entry(1, first)), l.receive(b, 1, entry(2, first)))
		}, "twice"},
		"changed":     {func(l *ledger) error { return l.receive(b, 0, entry(1, changed)) }, "nobody sent"},
		"misdirected": {func(l *ledger) error { return l.receive(a.ServerName, 0, entry(1, first)) }, "is the mail of"},
		"used ID": {func(l *ledger) error {
			return errors.Join(l.receive(b, 0, entry(2, first)), l.receive(b, 0, entry(2, second)))
		}, "not above"},
		"wrong order": {func(l *ledger) error {
			return errors.Join(l.receive(b, 0, entry(1, second)), l.receive(b, 1, entry(2, first)))
		}, "comes after mail"},
		"going backwards": {func(l *ledger) error { return l.receive(b, 7, entry(7, first)) }, "comes after 7"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger()
			l.answer(l.begin(first))
			l.answer(l.begin(second))
			err := test.meet(l)
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.want)
		})
	}
}

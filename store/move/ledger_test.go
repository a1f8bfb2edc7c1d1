package move

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A letter is mail of a test, and its fate.
type letter struct {
	store.Mail
	begun    int // when it was first put
	written  time.Time
	answered int   // when a Put of it first returned nil; 0: never
	id       int64 // the one that it was handed out with; 0: not yet
	acked    bool
}

// A ledger checks the mail that a store hands out against the mail that was put. Time
// is a count of events.
type ledger struct {
	mu      sync.Mutex
	now     int
	letters []*letter
	byKey   map[store.Digest]*letter
	last    map[spec.ServerName]int64 // the newest ID that was handed out
	latest  map[spec.ServerName]int   // the latest that a letter was begun that was
}

func newLedger() *ledger {
	return &ledger{byKey: make(map[store.Digest]*letter), last: make(map[spec.ServerName]int64), latest: make(map[spec.ServerName]int)}
}

// mailOf returns mail that differs from all with another number.
func mailOf(to spec.ServerName, n int) store.Mail {
	name := fmt.Sprintf("%s %d", to, n)
	return store.Mail{
		Destination: to, Origin: "origin", TransactionID: gomatrixserverlib.TransactionID(name),
		Digest: sha256.Sum256([]byte(name)), Body: []byte("body of " + name), Proof: []byte("proof of " + name),
		Lifetime: 40 * day,
	}
}

// isLeft reports whether that can be left of its lifetime: none is lost on the
// way from one store to the other, but a millisecond to rounding at each step.
func (l *letter) isLeft(left time.Duration) bool {
	return left <= l.Lifetime && left >= l.Lifetime-time.Since(l.written)-10*time.Millisecond
}

// write makes a new letter.
func (l *ledger) write(to spec.ServerName) *letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now++
	one := &letter{Mail: mailOf(to, len(l.letters)), begun: l.now, written: time.Now()}
	l.letters = append(l.letters, one)
	l.byKey[one.Digest] = one
	return one
}

// answer notes that a Put returned nil, and checks its answer.
func (l *ledger) answer(one *letter, stored bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now++
	if one.answered != 0 && stored {
		return fmt.Errorf("a copy of %s was stored", one.TransactionID)
	}
	if one.answered == 0 {
		one.answered = l.now
	}
	return nil
}

// receive checks a page.
func (l *ledger) receive(to spec.ServerName, page []store.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range page {
		one := l.byKey[e.Digest]
		switch {
		case one == nil || e.Destination != to || string(e.Body) != string(one.Body) || string(e.Proof) != string(one.Proof) || !one.isLeft(e.Lifetime):
			return fmt.Errorf("entry %d for %s isn't what was put", e.ID, to)
		case one.acked:
			return fmt.Errorf("%s comes again as %d though it was acknowledged as %d", one.TransactionID, e.ID, one.id)
		case one.id == e.ID:
			continue
		case one.id != 0:
			return fmt.Errorf("%s is there as %d and as %d", one.TransactionID, one.id, e.ID)
		case e.ID <= l.last[to]:
			return fmt.Errorf("%s is new and has the ID %d after %d", one.TransactionID, e.ID, l.last[to])
		case one.answered != 0 && one.answered < l.latest[to]:
			return fmt.Errorf("%s comes after mail that was begun when it had been answered", one.TransactionID)
		}
		one.id, l.last[to], l.latest[to] = e.ID, e.ID, max(l.latest[to], one.begun)
	}
	return nil
}

// acknowledge notes that everything up to an entry is gone.
func (l *ledger) acknowledge(to spec.ServerName, id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.letters {
		if one.Destination == to && one.id != 0 && one.id <= id {
			one.acked = true
		}
	}
}

// settled checks that everything that was answered has arrived.
func (l *ledger) settled() error {
	for _, one := range l.letters {
		if one.answered != 0 && !one.acked {
			return fmt.Errorf("%s is lost (handed out as %d)", one.TransactionID, one.id)
		}
	}
	return nil
}

// some returns a letter that was answered.
func (l *ledger) some(n int) *letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.letters) == 0 || l.letters[n%len(l.letters)].answered == 0 {
		return nil
	}
	return l.letters[n%len(l.letters)]
}

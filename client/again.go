package client

import (
	"context"
	"errors"
	"time"

	"github.com/matrixrelay/relay/store"
)

const (
	// againEvery is how often a relay is given mail again for which there is no receipt,
	// though its destination gives them: the relay may have lost it. A relay that hasn't
	// takes it for a copy.
	againEvery = 24 * time.Hour

	// maxAgain is how often each transaction is given again.
	maxAgain = 3
)

// An again says which transactions of a destination a relay is given again, in rounds. It
// is stored as JSON.
type again struct {
	Begun int64 `json:"at"`   // when the last round did, in seconds since 1970
	Sent  int64 `json:"sent"` // the position up to which that round has come
	To    int64 `json:"to"`   // and goes

	// Marks are the positions up to which transactions were given before the last round
	// began (the first), and up to which they were given again n times at least (the n-th
	// after it).
	Marks [maxAgain + 1]int64 `json:"marks"`

	sending int64 // the position that was given last
}

// isDue reports whether a new round begins. The clock may have been set back.
func (a *again) isDue(now time.Time) bool {
	age := now.Sub(time.Unix(a.Begun, 0))
	return a.Sent >= a.To && (age < 0 || age >= againEvery)
}

// begin begins a round, when a relay was given those up to done.
func (a *again) begin(now time.Time, done int64) {
	a.Begun, a.Sent, a.To = now.Unix(), a.Marks[maxAgain], a.Marks[0]
	copy(a.Marks[1:], a.Marks[:maxAgain])
	a.Marks[0] = done
}

// passed notes that a transaction was given again.
func (a *again) passed(position int64) {
	if a.sending == position {
		a.Sent = max(a.Sent, position)
	}
}

// nextAgain returns the next transaction that a relay is to be given again.
func (o *Outbox) nextAgain(ctx context.Context, r *road) (Item, error) {
	if !o.givesReceipts(r.to.name) {
		return Item{}, store.ErrEmpty
	}
	now := time.Now()
	r.to.mu.Lock()
	p := r.to.progressOf(r.relay)
	a := &p.Again
	if a.isDue(now) {
		a.begin(now, p.Done)
		p.unsaved = true
	}
	sent, to := a.Sent, a.To
	r.to.mu.Unlock()
	if sent >= to {
		return Item{}, store.ErrEmpty
	}
	item, err := o.source.Next(ctx, r.to.name, sent)
	if err != nil && !errors.Is(err, store.ErrEmpty) {
		return Item{}, err
	}
	r.to.mu.Lock()
	defer r.to.mu.Unlock()
	if err != nil || item.Position > to {
		a.Sent, p.unsaved = to, true
		return Item{}, store.ErrEmpty
	}
	a.sending = item.Position
	return item, nil
}

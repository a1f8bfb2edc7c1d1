package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// ownNote is the key of the note of this server's own record.
	ownNote = "announced"

	// freshFor is how long a record of ours is fresh, renewAfter how long it is before
	// it is signed anew.
	freshFor   = 90 * 24 * time.Hour
	renewAfter = 30 * 24 * time.Hour

	// checkOwnEvery is how often our relays are asked for our own record, to find one that
	// was made before this server was set back to an earlier state.
	checkOwnEvery = 24 * time.Hour

	// announceEvery is how often a record is signed at most.
	announceEvery = time.Hour

	// setClock is a time in milliseconds before which no clock is set: the year 2025.
	setClock = 1735689600000

	// maxLeft bounds the relays that are kept though they were left.
	maxLeft = 64
)

// An announcer makes this server's own record, and brings it to relays.
type announcer struct {
	caller *Caller
	notes  store.Notes
	peers  *Peers
	book   *book
	self   fclient.SigningIdentity

	receipts bool // this server gives them

	retries *backoffs[spec.ServerName] // of relays that a record is owed to
	checks  *backoffs[spec.ServerName] // of relays that don't tell which record they have

	signing turns.Turn // taken while a record is made or brought

	// When each of our relays last told which record it has. Guarded by signing.
	checked map[spec.ServerName]time.Time

	mu  sync.Mutex
	own *own // replaced, never changed; nil: nothing was announced
}

func openAnnouncer(ctx context.Context, a *announcer) (*announcer, error) {
	slowly := Backoff{First: time.Minute, Most: time.Hour}
	a.retries, a.checks = newBackoffs[spec.ServerName](slowly), newBackoffs[spec.ServerName](slowly)
	a.signing, a.checked = turns.New(), make(map[spec.ServerName]time.Time)
	value, err := notebook.Read(ctx, a.notes, ownNote)
	if err != nil {
		return nil, fmt.Errorf("client: own record: %w", err)
	}
	if value == nil {
		return a, nil
	}
	read, err := readOwn(value)
	if err != nil {
		return a, setAside(ctx, a.notes, a.book.logger, store.Note{Key: ownNote, Value: value}, err)
	}
	if read.record.Server != a.self.ServerName { // the store was that of another server
		return a, nil
	}
	a.own = read
	a.peers.learn(a.self.ServerName, read.relays(time.Now()))
	return a, nil
}

// current returns nil if nothing was announced.
func (a *announcer) current() *own {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.own
}

// keep makes it the current one, durably.
func (a *announcer) keep(ctx context.Context, o own) error {
	o.Text, o.Shown = o.record.JSON(), nil
	if o.shown != nil {
		o.Shown = o.shown.JSON()
	}
	value, err := json.Marshal(&o)
	if err != nil {
		return fmt.Errorf("client: own record: %w", err)
	}
	if err := a.notes.SetNotes(ctx, []store.Note{{Key: ownNote, Value: value}}); err != nil {
		return fmt.Errorf("client: own record: %w", err)
	}
	a.mu.Lock()
	a.own = &o
	a.mu.Unlock()
	a.peers.learn(a.self.ServerName, o.relays(time.Now()))
	return nil
}

// announce makes a record that names these relays, once each of them has been asked for
// mail, so that it knows this server, and brings it to those that are to have it.
func (a *announcer) announce(ctx context.Context, relays []wire.RecordRelay) error {
	if _, err := a.draft(relays, nil); err != nil {
		return err
	}
	if err := a.claim(ctx, relays, a.current()); err != nil {
		return err
	}
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	if err := a.name(ctx, relays); err != nil {
		return err
	}
	a.bring(ctx)
	return nil
}

// leave takes a relay out of the records to come.
func (a *announcer) leave(ctx context.Context, relay spec.ServerName) error {
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	o := a.current()
	if o == nil || !isIn(o.wanted(), relay) {
		return nil
	}
	if err := a.name(ctx, without(o.wanted(), relay)); err != nil {
		return err
	}
	a.bring(ctx)
	return nil
}

// name makes a record that names these relays: now, or once the last one is old enough.
// Without relays there is no other record, and the last one expires.
func (a *announcer) name(ctx context.Context, relays []wire.RecordRelay) error {
	o := a.current()
	if o == nil {
		return a.sign(ctx, relays, nil)
	}
	changed := *o
	changed.Next, changed.Ended = nil, len(relays) == 0
	isSame := slices.EqualFunc(relays, o.record.Relays, isSameRelay) && (!o.Ended || o.record.IsFresh(time.Now()))
	switch {
	case isSame && !o.Ended && o.Next == nil:
		return nil
	case !isSame && !changed.Ended && o.rest(time.Now()) > 0:
		changed.Next = relays
	case !isSame && !changed.Ended:
		return a.sign(ctx, relays, o)
	}
	return a.keep(ctx, changed)
}

// lock has one record be made or brought at a time. The wait ends with ctx.
func (a *announcer) lock(ctx context.Context) error {
	if err := a.signing.Take(ctx); err != nil {
		return fmt.Errorf("client: own record: %w", err)
	}
	return nil
}

func (a *announcer) unlock() { a.signing.Give() }

// anew forgets all failures, since there is another network.
func (a *announcer) anew() {
	a.retries.anew()
	a.checks.anew()
}

// claim asks those relays for mail that aren't in use yet, and comes back where this
// server had left.
func (a *announcer) claim(ctx context.Context, relays []wire.RecordRelay, before *own) error {
	var all sync.WaitGroup
	errs := make([]error, len(relays))
	for i, relay := range relays {
		if before != nil && isIn(before.record.Relays, relay.Name) && isIn(before.wanted(), relay.Name) {
			continue
		}
		all.Go(func() {
			ctx, _ := withAddresses(ctx, relay.Name, relay.At) // the record doesn't tell yet
			if _, errs[i] = a.caller.Next(ctx, relay.Name, 0); errs[i] == nil {
				errs[i] = a.comeBack(ctx, relay.Name)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// comeBack has a mailbox that was left take mail again. Relays that don't know that, or
// don't tell, have none.
func (a *announcer) comeBack(ctx context.Context, relay spec.ServerName) error {
	state, err := a.caller.Mailbox(ctx, relay)
	if err != nil || state.State != wire.StateLeft {
		return nil //nolint:nilerr // it gave its mail, so it can be used
	}
	return a.caller.Return(ctx, relay, wire.Return{After: state.Mailbox})
}

// bring brings the record to the relays that it is owed to, as far as they can be reached
// and it is still about them. If one has a newer record, that one is taken over.
func (a *announcer) bring(ctx context.Context) {
	o := a.current()
	if o == nil || len(o.Owed) == 0 {
		return
	}
	var all sync.WaitGroup
	done, conflicts := make([]bool, len(o.Owed)), make([]bool, len(o.Owed))
	inUse := o.relays(time.Now())
	for i, relay := range o.Owed {
		if done[i] = !slices.Contains(inUse, relay); done[i] || a.retries.wait(relay) > 0 {
			continue
		}
		all.Go(func() {
			err := a.caller.PutRelayRecord(ctx, relay, *o.record)
			var e *wire.Error
			conflicts[i] = errors.As(err, &e) && e.Status == http.StatusConflict
			done[i] = err == nil || refuses(err) || isUnknownThere(err)
			switch {
			case done[i]:
				a.retries.succeeded(relay)
				a.warn(ctx, err)
			case ctx.Err() == nil:
				a.retries.failed(relay, 0)
			}
		})
	}
	all.Wait()
	changed := *o
	changed.Owed = nil
	for i, relay := range o.Owed {
		if !done[i] {
			changed.Owed = append(changed.Owed, relay)
		}
	}
	if len(changed.Owed) < len(o.Owed) {
		a.warn(ctx, a.keep(ctx, changed))
	}
	var newer []spec.ServerName
	for i, relay := range o.Owed {
		if conflicts[i] {
			newer = append(newer, relay)
		}
	}
	a.checkOwn(ctx, newer)
}

// rest is for how long nothing about this server's record is due.
func (a *announcer) rest() time.Duration {
	o := a.current()
	switch {
	case o == nil:
		return tendEvery
	case len(o.Owed) > 0:
		return tendSoon
	case o.Next != nil || o.shown != nil:
		return min(max(o.rest(time.Now()), time.Second), tendEvery)
	}
	return tendEvery
}

func (a *announcer) warn(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		a.book.logger.Warn("client: own record", "error", err)
	}
}

// tend does the work that is due: it brings the record where it is owed, looks for one that this
// server doesn't know, besides the one that it was shown, if any, and signs it anew.
func (a *announcer) tend(ctx context.Context, shown *wire.RelayRecord) {
	if a.lock(ctx) != nil {
		return
	}
	defer a.unlock()
	o := a.current()
	if o == nil {
		return
	}
	now := time.Now()
	if shown != nil {
		a.takeOver(ctx, *shown, "")
	}
	a.signAboveShown(ctx)
	a.checkOwn(ctx, slices.DeleteFunc(o.relays(now), func(relay spec.ServerName) bool {
		return now.Sub(a.checked[relay]) < checkOwnEvery || a.checks.wait(relay) > 0
	}))
	o = a.current()
	if a.isDue(o, now) {
		a.warn(ctx, a.sign(ctx, o.wanted(), o))
	}
	a.bring(ctx)
	a.peers.learn(a.self.ServerName, a.current().relays(now)) // without those that have expired
}

package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
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

	// announceEvery is how often one is signed at most because of a record that this
	// server doesn't know.
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

	// When each of our relays last told which record it has, and when a record was taken
	// over. Guarded by signing.
	checked  map[spec.ServerName]time.Time
	tookOver time.Time

	mu  sync.Mutex
	own *own // replaced, never changed; nil: nothing was announced
}

// own has all that is kept about this server's own record, as JSON.
type own struct {
	Text json.RawMessage `json:"record"`

	// Made is when it was signed, in seconds since 1970, and Key the ID of the key.
	Made int64                   `json:"made"`
	Key  gomatrixserverlib.KeyID `json:"key"`

	// Left are relays that it doesn't name and an earlier one does, and when that one
	// expires, in milliseconds: until then others may leave mail there.
	Left map[spec.ServerName]uint64 `json:"left,omitempty"`

	// Owed are relays that it is to be brought to.
	Owed []spec.ServerName `json:"owed,omitempty"`

	record *wire.RelayRecord
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
	read := &own{}
	if err := json.Unmarshal(value, read); err != nil {
		return nil, fmt.Errorf("client: own record: %w", err)
	}
	record, err := wire.ReadRelayRecord(read.Text)
	if err != nil {
		return nil, fmt.Errorf("client: own record: %w", err)
	}
	if record.Server != a.self.ServerName { // the store was that of another server
		return a, nil
	}
	read.record = &record
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

// relays are those from which mail is to be fetched: also those that were left, until
// the last record that names them has expired.
func (o *own) relays(now time.Time) []spec.ServerName {
	all := namesOf(o.record)
	for relay, until := range o.Left {
		if uint64(max(now.UnixMilli(), 0)) < until {
			all = append(all, relay)
		}
	}
	return all
}

func namesOf(record *wire.RelayRecord) (names []spec.ServerName) {
	for _, relay := range record.Relays {
		names = append(names, relay.Name)
	}
	return names
}

// keep makes it the current one, durably.
func (a *announcer) keep(ctx context.Context, o own) error {
	o.Text = o.record.JSON()
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

// announce signs a record that names these relays, once each of them has been asked for
// mail, so that it knows this server, and brings it to those that are to have it.
func (a *announcer) announce(ctx context.Context, relays []spec.ServerName) error {
	if err := a.claim(ctx, relays, a.current()); err != nil {
		return err
	}
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	if err := a.sign(ctx, relays, a.current()); err != nil {
		return err
	}
	a.bring(ctx)
	return nil
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
func (a *announcer) claim(ctx context.Context, relays []spec.ServerName, before *own) error {
	var all sync.WaitGroup
	errs := make([]error, len(relays))
	for i, relay := range relays {
		if before != nil && before.record.Names(relay) {
			continue
		}
		all.Go(func() {
			if _, errs[i] = a.caller.Next(ctx, relay, 0); errs[i] == nil {
				errs[i] = a.comeBack(ctx, relay)
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

// sign makes a record above the one before, which may be nil, and keeps it.
func (a *announcer) sign(ctx context.Context, relays []spec.ServerName, before *own) error {
	now := time.Now()
	draft, left := wire.RelayRecord{Seq: wire.NextSeq(now, 0), Receipts: a.receipts}, make(map[spec.ServerName]uint64)
	draft.Expires = uint64(max(now.Add(freshFor).UnixMilli(), 0))
	owed := slices.Clone(relays)
	if before != nil {
		draft.Seq = wire.NextSeq(now, before.record.Seq)
		maps.Copy(left, before.Left)
		for _, relay := range namesOf(before.record) {
			left[relay] = max(left[relay], before.record.Expires)
		}
		owed = append(owed, before.Owed...)
	}
	for _, relay := range relays {
		draft.Relays = append(draft.Relays, wire.RecordRelay{Name: relay})
		delete(left, relay)
	}
	for relay, until := range left {
		if until < setClock { // which says nothing: it may be in use as long as ours
			left[relay] = max(until, draft.Expires)
		}
	}
	forgetOldest(left)
	for relay := range left {
		owed = append(owed, relay) // see bring
	}
	slices.Sort(owed)
	record, err := wire.SignRelayRecord(draft, a.self)
	if err != nil {
		return fmt.Errorf("client: own record: %w", err)
	}
	return a.keep(ctx, own{Made: now.Unix(), Key: a.self.KeyID, Left: left, Owed: slices.Compact(owed), record: &record})
}

// forgetOldest bounds the relays that were left. It doesn't go by the clock, which may be
// wrong now: one that has expired isn't used, and is there if the clock is set right.
func forgetOldest(left map[spec.ServerName]uint64) {
	for len(left) > maxLeft {
		delete(left, slices.MinFunc(slices.Collect(maps.Keys(left)), func(a, b spec.ServerName) int {
			return cmp.Compare(left[a], left[b])
		}))
	}
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

// owes reports whether the record is owed to any relay.
func (a *announcer) owes() bool {
	o := a.current()
	return o != nil && len(o.Owed) > 0
}

func (a *announcer) warn(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		a.book.logger.Warn("client: own record", "error", err)
	}
}

// isOutdated reports whether our record is to be signed anew.
func (a *announcer) isOutdated(o *own, now time.Time) bool {
	age := now.Sub(time.Unix(o.Made, 0))
	return age >= renewAfter || age < 0 && !o.record.IsFresh(now) || o.Key != a.self.KeyID || o.record.Receipts != a.receipts
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
	a.checkOwn(ctx, slices.DeleteFunc(o.relays(now), func(relay spec.ServerName) bool {
		return now.Sub(a.checked[relay]) < checkOwnEvery || a.checks.wait(relay) > 0
	}))
	o = a.current()
	if a.isOutdated(o, now) {
		a.warn(ctx, a.sign(ctx, namesOf(o.record), o))
	}
	a.bring(ctx)
	a.peers.learn(a.self.ServerName, a.current().relays(now)) // without those that have expired
}

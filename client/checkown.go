package client

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// checkOwn asks relays for this server's record.
func (a *announcer) checkOwn(ctx context.Context, relays []spec.ServerName) {
	var all sync.WaitGroup
	found, errs := make([]wire.RelayRecord, len(relays)), make([]error, len(relays))
	for i, relay := range relays {
		all.Go(func() { found[i], errs[i] = a.caller.RelayRecord(ctx, relay, a.self.ServerName) })
	}
	all.Wait()
	for i, relay := range relays {
		a.told(ctx, relay, found[i], errs[i])
	}
}

// told is for the answer of a relay about this server's record. One that is named and has
// none, or an older one, has lost it, and gets it again.
func (a *announcer) told(ctx context.Context, relay spec.ServerName, found wire.RelayRecord, err error) {
	if err != nil && !refuses(err) && !isUnknownThere(err) {
		if ctx.Err() == nil {
			a.checks.failed(relay, 0)
		}
		return
	}
	a.checks.succeeded(relay)
	note(a.checked, relay, time.Now())
	if err == nil {
		a.takeOver(ctx, found, relay)
	}
	o := a.current()
	var e *wire.Error
	lost := err == nil && found.Precedes(o.record) || errors.As(err, &e) && e.Code == spec.ErrorNotFound
	if lost && isIn(o.record.Relays, relay) && !slices.Contains(o.Owed, relay) {
		owing := *o
		owing.Owed = append(slices.Clone(o.Owed), relay)
		a.warn(ctx, a.keep(ctx, owing))
	}
}

// takeOver is for a record of this server that somebody has shown. One that is newer than
// ours was made by this server before it was set back, or by somebody that has its key:
// its relays are asked for mail, too, and ours is signed above it, once we may sign one.
func (a *announcer) takeOver(ctx context.Context, found wire.RelayRecord, from spec.ServerName) {
	o, now := a.current(), time.Now()
	if !o.record.Precedes(&found) || o.shown != nil && !o.shown.Precedes(&found) || found.Check(ctx, a.book.keys, now) != nil {
		return
	}
	a.book.logger.Warn("client: there is a record of this server that it doesn't know", "from", from, "relays", namesOf(found.Relays))
	later := *o
	later.shown, later.Left = &found, make(map[spec.ServerName]uint64)
	maps.Copy(later.Left, o.Left)
	for _, relay := range namesOf(found.Relays) {
		later.Left[relay] = max(later.Left[relay], found.Expires)
	}
	forgetOldest(later.Left)
	if err := a.keep(ctx, later); err != nil { // perhaps nobody shows it again
		a.warn(ctx, err)
		return
	}
	a.signAboveShown(ctx)
}

// signAboveShown signs a record above the one that was shown, if there is one and it may. One
// whose key doesn't hold any more is forgotten.
func (a *announcer) signAboveShown(ctx context.Context) {
	o, now := a.current(), time.Now()
	if o.shown == nil || o.rest(now) > 0 {
		return
	}
	if err := o.shown.Check(ctx, a.book.keys, now); errors.Is(err, wire.ErrSigned) || errors.Is(err, wire.ErrNoKey) {
		without := *o
		without.shown = nil
		a.warn(ctx, a.keep(ctx, without))
		return
	}
	relays := o.wanted()
	if o.Ended { // when this server was set back to
		relays = o.shown.Relays
	}
	a.warn(ctx, a.sign(ctx, relays, o))
}

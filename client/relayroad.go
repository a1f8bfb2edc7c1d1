package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/matrixrelay/relay/store"
)

// serveRelay leaves at a relay the transactions that it doesn't have yet, in order.
func (o *Outbox) serveRelay(ctx context.Context, r *road) (t turn, err error) {
	defer func() { err = errors.Join(err, o.save(ctx, r.to, r.relay)) }()
	for range turnLength {
		if !slices.Contains(o.relaysInUse(r.to.name), r.relay) {
			t.outcome = exhausted
			return t, nil
		}
		item, err := o.nextFor(ctx, r)
		if errors.Is(err, store.ErrEmpty) {
			return o.relayHasAll(ctx, r, t)
		}
		if err != nil {
			return t, err
		}
		attempt := o.leaveAt(ctx, r, item)
		if !o.dealtWith(ctx, r, item, attempt) {
			t.outcome, t.wait = failed, attempt.RetryAfter
			if t.wait <= 0 { // it was ended, or the Sender no longer knows
				t.wait = o.config.Backoff.First
			}
			return t, ctx.Err()
		}
		t.answered = true
	}
	t.outcome = more
	return t, nil
}

// relayHasAll ends a turn for which there is nothing left.
func (o *Outbox) relayHasAll(ctx context.Context, r *road, t turn) (turn, error) {
	t.outcome = exhausted
	r.to.mu.Lock()
	if p := r.to.progressOf(r.relay); len(p.Owed) > 0 {
		t.outcome, t.wait = owing, time.Until(p.owedDue)
	}
	r.to.mu.Unlock()
	if err := o.trim(ctx, r.to); err != nil || !o.givesReceipts(r.to.name) {
		return t, err
	}
	wait, err := o.askReceipts(ctx, r, t.answered)
	if wait > 0 && (t.outcome == exhausted || wait < t.wait) {
		t.outcome, t.wait = owing, wait
	}
	return t, err
}

// nextFor returns the next transaction for a relay: after those that it was
// given, or else one that is owed to it, or that it is to be given again.
func (o *Outbox) nextFor(ctx context.Context, r *road) (Item, error) {
	r.to.mu.Lock()
	p := r.to.progressOf(r.relay)
	done, owed := p.Done, slices.Clone(p.Owed)
	if p.owedDue.After(time.Now()) {
		owed = nil
	}
	r.to.mu.Unlock()
	item, err := o.source.Next(ctx, r.to.name, done)
	for len(owed) > 0 && errors.Is(err, store.ErrEmpty) {
		item, err = o.source.Next(ctx, r.to.name, owed[0]-1)
		if err != nil || item.Position == owed[0] {
			break
		}
		r.to.mu.Lock()
		p.through(owed[0]) // it has ended
		r.to.mu.Unlock()
		owed, err = owed[1:], store.ErrEmpty
	}
	if errors.Is(err, store.ErrEmpty) {
		return o.nextAgain(ctx, r)
	}
	return item, err
}

// leaveAt leaves a transaction at a relay, if it is for relays at all.
func (o *Outbox) leaveAt(ctx context.Context, r *road, item Item) Attempt {
	if item.TooOld || item.Waits || o.config.Sender.wasPassedOn(item.Transaction) {
		return Attempt{Server: r.relay}
	}
	attempt := o.config.Sender.leaveAt(ctx, r.relay, item.Transaction)
	if attempt.isOwn() {
		o.logOwn(r.to.name, item, attempt.Err)
	}
	return attempt
}

// dealtWith notes how an attempt at a relay ended, and reports whether the relay is
// to be given the next transaction.
func (o *Outbox) dealtWith(ctx context.Context, r *road, item Item, attempt Attempt) bool {
	d := r.to
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.progressOf(r.relay)
	switch attempt.Verdict {
	case Delivered:
		had := p.has(item.Position)
		p.through(item.Position)
		if item.Position > d.ended && !had && !o.isGone(ctx, d, item) {
			relays := o.config.Sender.relaysOf(d.name)
			at, _ := d.at(item.Position, relays)
			o.notify(d, item, Event{Result: ResultRelayed, At: at, Of: len(relays)})
		}
	case Refused:
		p.refused(item.Position)
	case Untried:
		if attempt.RetryAfter > 0 {
			return false
		}
		p.through(item.Position) // it isn't for relays
	case Doubtful:
		if p.has(item.Position) { // and was given it again
			p.Again.passed(item.Position)
			return true
		}
		return p.owe(item.Position, time.Now().Add(attempt.RetryAfter))
	default:
		return false
	}
	return true
}

// trim drops the oldest of those that all relays have, down to as many as may be kept, unless
// the destination gives receipts.
func (o *Outbox) trim(ctx context.Context, d *destination) error {
	for {
		item, err := o.oldest(ctx, d)
		if errors.Is(err, store.ErrEmpty) {
			return o.forget(ctx, d)
		}
		if err != nil || item.Stays || o.givesReceipts(d.name) {
			return err
		}
		// Those behind one that must be kept can't be taken off before it.
		relays := o.config.Sender.relaysOf(d.name)
		d.mu.Lock()
		count, all := d.at(item.Position, relays)
		d.mu.Unlock()
		if !all || count == 0 {
			return nil
		}
		queued, err := o.source.Queued(ctx, d.name)
		if err != nil || queued <= int64(o.config.KeepRelayed) {
			return err
		}
		if err := o.end(ctx, d, item, Event{Result: ResultDropped, At: count, Of: len(relays)}); err != nil {
			return err
		}
	}
}

package client

import (
	"context"
	"errors"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// turnLength is how many transactions a road may send before it goes to the end
// of the queue.
const turnLength = 32

// serve does everything that can be done on a road now.
func (o *Outbox) serve(ctx context.Context, r *road) turn {
	do := o.serveRelay
	if r.isDirect() {
		do = o.serveDirectly
	}
	t, err := do(ctx, r)
	if err != nil && ctx.Err() == nil {
		o.config.Logger.Warn("client: outbox", "destination", r.to.name, "relay", r.relay, "error", err)
		return turn{outcome: troubled}
	}
	return t
}

// serveDirectly hands transactions over, the oldest first, until one fails.
func (o *Outbox) serveDirectly(ctx context.Context, r *road) (t turn, err error) {
	for range turnLength {
		item, err := o.oldest(ctx, r.to)
		if errors.Is(err, store.ErrEmpty) {
			t.outcome = exhausted
			return t, errors.Join(o.forget(ctx, r.to), o.peers.forget(ctx, r.to.name))
		}
		if err != nil {
			return t, err
		}
		if item.Waits {
			return turn{outcome: held, wait: min(o.config.Backoff.Most, DefaultMostBackoff)}, nil
		}
		attempt, offline := o.config.Sender.SendDirect(ctx, item.Transaction)
		if err := ctx.Err(); err != nil && attempt.Verdict != Delivered {
			return t, err
		}
		o.attempts.count(attempt.Verdict)
		switch {
		case attempt.Verdict == Delivered:
			err = o.end(ctx, r.to, item, Event{Result: ResultDelivered})
		case attempt.Verdict == Refused && !item.Stays: // else it may still be fetched
			o.logOwn(r.to.name, item, attempt.Err)
			err = o.end(ctx, r.to, item, Event{Result: ResultRefused, Err: attempt.Err})
		default:
			t.outcome, t.wait = failed, attempt.RetryAfter
			if offline {
				o.schedule.useRelays(r.to.name, o.relaysInUse(r.to.name))
			}
			return t, nil
		}
		if err != nil {
			return t, err
		}
		t.answered = true
	}
	t.outcome = more
	return t, nil
}

// logOwn logs that a transaction ends, or isn't sent, for a reason of our own.
func (o *Outbox) logOwn(destination spec.ServerName, item Item, why error) {
	if errors.Is(why, ErrUnsendable) {
		o.config.Logger.Error("client: outbox: a transaction can't be sent", "destination", destination, "transaction", item.ID, "error", why)
	}
}

// oldest returns the oldest transaction, and ends those that are too old.
func (o *Outbox) oldest(ctx context.Context, d *destination) (Item, error) {
	for {
		item, err := o.source.Next(ctx, d.name, 0)
		if err != nil || !item.TooOld {
			return item, err
		}
		if err := o.end(ctx, d, item, Event{Result: ResultExpired}); err != nil {
			return Item{}, err
		}
	}
}

// end takes off the oldest transaction, and tells, unless another road has done
// so.
func (o *Outbox) end(ctx context.Context, d *destination, item Item, e Event) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o.isGone(ctx, d, item) {
		return nil
	}
	// A sent transaction must be taken off the queue, even if we are being closed.
	if err := o.source.End(context.WithoutCancel(ctx), d.name, item.Position, e.Result); err != nil {
		return err
	}
	if item.Position > d.ended {
		d.ended = item.Position
		o.notify(d, item, e)
	}
	return nil
}

// isGone reports whether a receipt has ended a transaction. The lock must be held.
func (o *Outbox) isGone(ctx context.Context, d *destination, item Item) bool {
	if !o.givesReceipts(d.name) {
		return false
	}
	next, err := o.source.Next(context.WithoutCancel(ctx), d.name, item.Position-1)
	return errors.Is(err, store.ErrEmpty) || err == nil && next.Position != item.Position
}

// notify tells an event. The lock must be held.
func (o *Outbox) notify(d *destination, item Item, e Event) {
	if o.config.Notify != nil {
		e.Destination, e.TransactionID = d.name, item.ID
		o.config.Notify(e)
	}
}

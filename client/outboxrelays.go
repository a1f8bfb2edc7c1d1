package client

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/matrixrelay/relay/store"
)

// serveThroughRelays leaves at relays what none of them has yet.
func (o *Outbox) serveThroughRelays(ctx context.Context, l *line, t *turn) error {
	for range turnLength {
		if o.lines.isSeen(l) {
			break
		}
		entry, err := o.next(ctx, l, l.relayed)
		if errors.Is(err, store.ErrEmpty) {
			t.relayed = true
			return o.trim(ctx, l)
		}
		if err != nil {
			return err
		}
		relayed, e, err := o.leaveAtRelays(ctx, entry)
		switch {
		case err != nil:
			return err
		case relayed:
			l.relayFailures = 0
			o.notify(entry, ResultRelayed, nil)
		case e == nil || e.RelaysRefused || l.relayFailures >= relayPatience && e.refusedByRelay() && o.holdsUp(ctx, l, entry):
			l.refused = entry.ID
		default:
			l.relayFailures++
			t.retryRelays(o.config.Backoff.after(l.relayFailures, e.RetryAfter), e)
			return nil
		}
		if err := o.remember(ctx, l, entry.ID); err != nil {
			return err
		}
	}
	t.until = time.Now()
	return nil
}

// relayPatience is how often relays that fail are tried in a row before a
// transaction that another has refused doesn't hold up what is behind it.
const relayPatience = 4

// holdsUp reports whether there is anything behind an entry.
func (o *Outbox) holdsUp(ctx context.Context, l *line, entry store.Entry) bool {
	_, err := o.config.Store.Next(ctx, l.destination, entry.ID, 1, 1)
	return err == nil
}

// leaveAtRelays reports whether a relay has taken an entry, and if not why; the
// reason is nil for what isn't for relays.
func (o *Outbox) leaveAtRelays(ctx context.Context, entry store.Entry) (relayed bool, why *SendError, err error) {
	transaction, ok := o.transactionOf(entry)
	if !ok || o.config.Sender.wasPassedOn(transaction) {
		return false, nil, nil
	}
	attempts, err := o.config.Sender.SendToRelays(ctx, transaction)
	if err != nil {
		return false, nil, err
	}
	outcome := Outcome{Destination: Attempt{Server: entry.Destination}, Relays: attempts}
	return outcome.Relayed(), o.config.Sender.sendError(outcome), nil
}

// retryRelays has the line served again when its relays may be asked, if there
// are any and that is before the next direct attempt.
func (t *turn) retryRelays(after time.Duration, why *SendError) {
	if at := time.Now().Add(after); len(why.Outcome.Relays) > 0 && at.Before(t.until) {
		t.until = at
	}
}

// trim drops the oldest of what is kept, down to what may be. A relay drops
// nothing: who fetches from it needn't know the relays that it does.
func (o *Outbox) trim(ctx context.Context, l *line) error {
	if o.config.PassOn != nil {
		return nil
	}
	for {
		entry, err := o.next(ctx, l, 0) // first, since it ends what is too old
		if errors.Is(err, store.ErrEmpty) {
			return nil
		}
		if err != nil {
			return err
		}
		// What relays have refused is nowhere else, and what is behind it can't
		// be removed before it.
		if entry.ID > l.relayed || entry.ID <= l.refused {
			return nil
		}
		usage, err := o.config.Store.Usage(ctx, l.destination)
		if err != nil || usage.Entries <= int64(o.config.KeepRelayed) {
			return err
		}
		if err := o.end(ctx, l, entry, ResultDropped, nil); err != nil {
			return err
		}
	}
}

// remember notes that relays have everything up to that entry, or have refused
// it.
func (o *Outbox) remember(ctx context.Context, l *line, id int64) error {
	l.relayed = id
	if o.notes == nil {
		return nil
	}
	value := binary.BigEndian.AppendUint64(nil, uint64(id))
	value = binary.BigEndian.AppendUint64(value, uint64(l.refused))
	note := store.Note{Key: outboxPrefix + string(l.destination), Value: value}
	return o.notes.SetNotes(context.WithoutCancel(ctx), []store.Note{note})
}

// forget drops the note on a destination for which there is nothing left.
func (o *Outbox) forget(ctx context.Context, l *line) error {
	if o.notes == nil || l.relayed == 0 {
		return nil
	}
	l.relayed, l.refused = 0, 0
	return o.notes.SetNotes(ctx, []store.Note{{Key: outboxPrefix + string(l.destination)}})
}

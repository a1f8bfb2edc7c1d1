package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// receiptSlack is how much older than its transaction a receipt may seem to be: clocks
	// differ. One that is older yet is for another transaction, with the same ID and
	// content, before this server was set back.
	receiptSlack = 24 * time.Hour

	// maxReceiptPages bounds the requests for receipts at one time.
	maxReceiptPages = 32
)

// asking is how long a relay isn't asked for receipts of a destination when it had none,
// and unreceipting how long one that keeps none.
var (
	asking       = Backoff{First: time.Minute, Most: time.Hour}.withDefaults()
	unreceipting = Backoff{First: 24 * time.Hour, Most: 24 * time.Hour}.withDefaults()
)

// An inquiry is how far a relay was asked for the receipts of a destination. After a
// restart it begins anew, which shows the same receipts once more.
type inquiry struct {
	after int64 // the number of the last one
	vain  int   // how often in a row there was none for anything that waits
	none  bool  // the relay keeps none
	due   time.Time
}

// givesReceipts reports whether a destination says that it has handled mail, and we can use it.
func (o *Outbox) givesReceipts(destination spec.ServerName) bool {
	return o.queue != nil && o.queue.managed != nil && o.config.Sender.book.givesReceipts(destination)
}

// askReceipts ends the transactions for which a relay has receipts, if it is time to ask,
// and returns when it is time again: never if nothing waits.
func (o *Outbox) askReceipts(ctx context.Context, r *road, left bool) (wait time.Duration, err error) {
	if _, err := o.source.Next(ctx, r.to.name, 0); err != nil {
		return 0, ignoreEmpty(err)
	}
	now := time.Now()
	r.to.mu.Lock()
	q := r.to.progressOf(r.relay).inquiry
	r.to.mu.Unlock()
	if soon := now.Add(asking.after(1, 0)); q.due.IsZero() || left && !q.none && q.due.After(soon) {
		q.due, q.vain = soon, 0
	}
	if wait := o.config.Sender.relayWait(r.relay, r.to.name); wait > 0 && !q.due.After(now) {
		q.due = now.Add(wait)
	}
	if !q.due.After(now) {
		if err := o.inquire(ctx, r, &q); err != nil {
			return 0, err
		}
	}
	r.to.mu.Lock()
	defer r.to.mu.Unlock()
	r.to.progressOf(r.relay).inquiry = q
	return max(time.Until(q.due), time.Second), nil
}

func ignoreEmpty(err error) error {
	if errors.Is(err, store.ErrEmpty) {
		return nil
	}
	return err
}

// inquire asks a relay for new receipts, and ends the transactions that they are for. It
// fails only if the store does.
func (o *Outbox) inquire(ctx context.Context, r *road, q *inquiry) error {
	receipts, after, err := o.newReceipts(ctx, r, q.after)
	ended, failed := o.endHandled(ctx, r, receipts)
	if failed != nil {
		return failed
	}
	q.after = after
	if q.vain++; ended > 0 {
		q.vain = 0
	}
	backoff := asking
	if q.none = err != nil && isUnknownThere(err); q.none {
		backoff = unreceipting
	}
	q.due = time.Now().Add(backoff.after(max(q.vain, 1), retryAfter(err)))
	return nil
}

// newReceipts asks a relay for receipts, and returns those that the destination signed, and
// the number to ask from next time, also if it fails after some.
func (o *Outbox) newReceipts(ctx context.Context, r *road, after int64) (all []wire.Receipt, from int64, err error) {
	from, unsure := after, false
	for range maxReceiptPages {
		receipts, next, err := o.config.Sender.config.Caller.Receipts(ctx, r.relay, r.to.name, after)
		if err != nil {
			return all, from, err
		}
		for _, receipt := range receipts {
			err := o.checkReceipt(ctx, r.to.name, &receipt)
			if err == nil {
				all = append(all, receipt)
				continue
			}
			unsure = unsure || !errors.Is(err, wire.ErrSigned) // it may be good, and is looked at again
			o.config.Logger.Debug("client: a receipt isn't taken", "destination", r.to.name, "relay", r.relay, "error", err)
		}
		if next < after { // the relay was set back, and begins anew
			from = 0
		}
		if !unsure {
			from = next
		}
		if next == after {
			break
		}
		after = next
	}
	return all, from, nil
}

// checkReceipt fails, with wire.ErrSigned, for a receipt that a destination hasn't given us.
func (o *Outbox) checkReceipt(ctx context.Context, destination spec.ServerName, receipt *wire.Receipt) error {
	if receipt.Destination != destination || receipt.Origin != o.self {
		return fmt.Errorf("%w: it is for %s, from %s", wire.ErrSigned, receipt.Origin, receipt.Destination)
	}
	return receipt.Check(ctx, o.config.Sender.book.keys, time.Now())
}

// endHandled ends the transactions that receipts of a relay are for, of those that it was
// given, and returns how many those are.
func (o *Outbox) endHandled(ctx context.Context, r *road, receipts []wire.Receipt) (ended int, err error) {
	d := r.to
	handled := make(map[wire.ReceiptItem]uint64) // when, at the latest
	for _, receipt := range receipts {
		for _, item := range receipt.Items {
			handled[item] = max(handled[item], receipt.TS)
		}
	}
	if len(handled) == 0 {
		return 0, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock() // so nothing else ends one meanwhile
	items, err := o.queue.handled(ctx, d.name, handled, d.progressOf(r.relay).isThrough)
	for _, item := range items {
		o.notify(d, item, Event{Result: ResultHandled})
	}
	return len(items), err
}

// handled takes off all transactions for which there is a receipt and that were sent,
// wherever they are in the queue, and returns them.
func (q *queue) handled(ctx context.Context, destination spec.ServerName, handled map[wire.ReceiptItem]uint64, wasSent func(position int64) bool) (items []Item, err error) {
	const page = 1000
	mailbox := store.Private(queuePart, destination)
	for after := int64(0); ; {
		list, err := q.managed.List(ctx, mailbox, after, page)
		if err != nil || len(list) == 0 {
			return items, err
		}
		var these []Item
		var ids []int64
		for _, entry := range list {
			after = entry.ID
			ts, ok := handled[wire.ReceiptItem{TransactionID: entry.TransactionID, Digest: entry.Digest}]
			if !ok || !wasSent(entry.ID) {
				continue
			}
			item, err := q.Next(ctx, destination, entry.ID-1)
			if err != nil && !errors.Is(err, store.ErrEmpty) {
				return items, err
			}
			if err == nil && item.Position == entry.ID && !isTooEarly(ts, item.Body) {
				these, ids = append(these, Item{Transaction: Transaction{ID: item.ID}}), append(ids, entry.ID)
			}
		}
		// Handled mail must be taken off, even if we are being closed.
		if _, err := q.managed.Remove(context.WithoutCancel(ctx), mailbox, ids); err != nil {
			return items, err
		}
		items = append(items, these...)
	}
}

// isTooEarly reports whether a receipt of that time is older than a transaction.
func isTooEarly(ts uint64, body []byte) bool {
	var made struct {
		At *uint64 `json:"origin_server_ts"`
	}
	if json.Unmarshal(body, &made) != nil || made.At == nil {
		return false
	}
	return ts+uint64(receiptSlack.Milliseconds()) < *made.At
}

package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A queue is the durable Source of an Outbox. Its mailboxes have names that no
// server has, so its store can be a relay's as well.
type queue struct {
	store   store.Store
	managed store.Managed // the same; nil if it isn't one
	self    spec.ServerName
	limits  store.Limits
	maxAge  time.Duration
}

// queuePart is the part of a store that queues are in.
const queuePart = "outbox"

// expiryMargin is how much longer than MaxAge the store keeps a transaction: it
// is for the Outbox to take off transactions that are too old, and to tell. The
// store counts the time, with a clock that nobody can set.
const expiryMargin = 30 * 24 * time.Hour

// put keeps a transaction, whose content was read.
func (q *queue) put(ctx context.Context, t Transaction, content wire.Content) error {
	_, err := q.store.Put(ctx, store.Mail{
		Destination: store.Private(queuePart, t.Destination), Origin: q.self, TransactionID: t.ID,
		Digest: content.Digest, Body: t.Body, Lifetime: q.maxAge + expiryMargin,
	}, q.limits)
	return err
}

func (q *queue) Next(ctx context.Context, destination spec.ServerName, after int64) (Item, error) {
	entry, err := nextEntry(ctx, q.store, store.Private(queuePart, destination), after)
	if err != nil {
		return Item{}, err
	}
	item := Item{
		Transaction: Transaction{ID: entry.TransactionID, Destination: destination, Body: entry.Body},
		Position:    entry.ID,
		TooOld:      entry.Lifetime > 0 && entry.Lifetime <= expiryMargin,
	}
	if entry.Lifetime > 0 {
		item.Age = max(q.maxAge+expiryMargin-entry.Lifetime, 0) // less, if MaxAge was another then
	}
	return item, nil
}

func (q *queue) End(ctx context.Context, destination spec.ServerName, position int64, _ Result) error {
	_, err := q.store.Ack(ctx, store.Private(queuePart, destination), position)
	return err
}

func (q *queue) Queued(ctx context.Context, destination spec.ServerName) (int64, error) {
	usage, err := q.store.Usage(ctx, store.Private(queuePart, destination))
	return usage.Entries, err
}

func (q *queue) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	names, err := q.store.Destinations(ctx, store.Private(queuePart, after), limit)
	if err != nil {
		return nil, err
	}
	var ours []spec.ServerName
	for _, name := range names {
		destination, ok := strings.CutPrefix(string(name), string(store.Private(queuePart, "")))
		if !ok { // those of another part come after all of ours
			break
		}
		ours = append(ours, spec.ServerName(destination))
	}
	return ours, nil
}

// nextEntry returns the first entry of a mailbox after that ID.
func nextEntry(ctx context.Context, from store.Store, mailbox spec.ServerName, after int64) (store.Entry, error) {
	entries, err := from.Next(ctx, mailbox, after, 1, math.MaxInt64)
	if err != nil {
		return store.Entry{}, err
	}
	return entries[0], nil
}

// read checks that a transaction of ours is one that servers can take, since
// another would hold up those behind it. The error is a *wire.Error where a
// server would answer one.
func (c *Caller) read(t Transaction) (wire.Content, error) {
	content, err := wire.ReadContent(t.Body)
	if err != nil {
		return content, err
	}
	if _, err := wire.UserAt(t.Destination); err != nil {
		return content, err
	}
	if t.ID == "" || len(t.ID) > wire.MaxTransactionIDBytes {
		return content, fmt.Errorf("a transaction ID of %d bytes", len(t.ID))
	}
	if self := c.config.Identity.ServerName; content.HasOrigin && content.Origin != self {
		return content, fmt.Errorf("its origin is %q", content.Origin)
	}
	if t.Proof != nil {
		return content, errors.New("it is another server's")
	}
	if err := c.canSend(t); err != nil {
		return content, wire.BadRequest(spec.ErrorBadJSON, err.Error())
	}
	return content, nil
}

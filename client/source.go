package client

import (
	"context"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A Source is where the transactions of an Outbox come from: for each
// destination a queue, in order. The durable queue that Enqueue fills is one, a
// relay's mail that is passed on another. A homeserver that keeps queues of its
// own can be one, too, and tells the Outbox of new transactions with
// Outbox.Stored.
//
// Its methods are called by many goroutines at once, also for one destination.
// An error, other than store.ErrEmpty from Next, is logged, and the destination
// tried again with back-off.
type Source interface {
	// Next returns the oldest transaction of a destination whose position is
	// greater than after (0: the oldest of all), or store.ErrEmpty if there is
	// none. A transaction that was returned once keeps its position, its ID and
	// its content until End. Positions are positive, and later transactions have
	// greater ones, also after a restart.
	Next(ctx context.Context, destination spec.ServerName, after int64) (Item, error)

	// End says how the oldest transaction ended. Nothing more happens to it: Next must
	// not return it again. It may be called twice for one.
	End(ctx context.Context, destination spec.ServerName, position int64, result Result) error

	// Queued returns how many transactions of a destination there are. It is
	// asked for Node.Status, and where some may be dropped: see
	// OutboxConfig.KeepRelayed.
	Queued(ctx context.Context, destination spec.ServerName) (int64, error)

	// Destinations returns up to limit destinations that have transactions, in
	// ascending order, from the first that is greater than after (empty: from
	// the start). An empty page is the end. It is asked when the Outbox is
	// opened.
	Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error)
}

// An Item is a transaction in a Source.
type Item struct {
	Transaction

	// Position is where it is in the queue of its destination.
	Position int64

	// TooOld says that it is no longer to be sent. It ends with ResultExpired
	// when it is the oldest.
	TooOld bool

	// Age is how long it has waited, for Node.Status. Zero: not known.
	Age time.Duration

	// Stays says that nothing but its delivery to the destination ends it, since
	// the destination may fetch it as well: it isn't dropped, and is tried again
	// if the destination refuses it.
	Stays bool

	// Waits says that it isn't to be sent at all, but to be fetched. It holds up
	// the transactions behind it on the direct road, so that the order is kept.
	Waits bool
}

// relayed is the Source of a relay's Outbox: all that its store has.
type relayed struct{ store store.Store }

func (s relayed) Next(ctx context.Context, destination spec.ServerName, after int64) (Item, error) {
	entry, err := nextEntry(ctx, s.store, destination, after)
	if err != nil {
		return Item{}, err
	}
	item := Item{
		Transaction: Transaction{ID: entry.TransactionID, Destination: destination, Body: entry.Body},
		Position:    entry.ID, Stays: true,
	}
	proof, err := wire.ReadProof(entry.Proof)
	item.Waits = err != nil || proof.Signature == ""
	item.Proof = &proof
	return item, nil
}

func (s relayed) End(ctx context.Context, destination spec.ServerName, position int64, _ Result) error {
	_, err := s.store.Ack(ctx, destination, position)
	return err
}

func (s relayed) Queued(ctx context.Context, destination spec.ServerName) (int64, error) {
	usage, err := s.store.Usage(ctx, destination)
	return usage.Entries, err
}

func (s relayed) Destinations(ctx context.Context, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	return s.store.Destinations(ctx, after, limit)
}

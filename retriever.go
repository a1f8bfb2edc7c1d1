package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A retriever hands transactions out: it is the fourth stage of relay_txn.
type retriever struct {
	config  Config
	waits   *waits
	busy    *busy
	repeats *repeats
	memory  memory
	metrics *metrics
	lately  *activity.Log
}

// next acknowledges the entry in the request's body and returns the answer
// that holds the next entries. Only the server that the mailbox belongs to may
// ask.
func (r *retriever) next(ctx context.Context, q *request) (answer, error) {
	destination := q.route.Destination()
	if q.signer != destination {
		return answer{}, wire.Forbidden("only the server itself may fetch its transactions")
	}
	r.lately.Asked(destination)
	removed, err := r.acknowledge(ctx, q)
	if err != nil {
		return answer{}, err
	}
	if r.config.Asked != nil {
		r.config.Asked(destination)
	}
	batch, err := r.repeats.may(q.holder(), removed > 0)
	if err != nil {
		return answer{}, err
	}
	if !batch {
		q.route.Query.Limit = min(q.route.Query.Limit, 1)
	}
	found, err := r.fetch(ctx, q)
	if errors.Is(err, store.ErrEmpty) && q.route.Query.Timeout > 0 {
		found, err = r.await(ctx, q)
	}
	if errors.Is(err, store.ErrEmpty) {
		return emptyAnswer(q.route.Query), nil
	}
	if err != nil {
		return answer{}, fmt.Errorf("relay: reading the next entries: %w", err)
	}
	return found, nil
}

// acknowledge removes the entries that the request acknowledges, and returns how many
// that were.
func (r *retriever) acknowledge(ctx context.Context, q *request) (removed int, err error) {
	acknowledged, err := wire.ReadEntryID(q.Content)
	if err != nil || acknowledged == 0 {
		return 0, err
	}
	removed, err = r.config.Store.Ack(ctx, q.route.Destination(), acknowledged)
	if err != nil {
		return 0, fmt.Errorf("relay: acknowledging an entry: %w", err)
	}
	r.metrics.acknowledge(removed)
	if removed > 0 {
		r.lately.Acknowledged(removed)
	}
	return removed, nil
}

// fetch returns the answer with as many entries as are asked for and as it may
// hold. If there is no room for a batch, it is a short one.
func (r *retriever) fetch(ctx context.Context, q *request) (answer, error) {
	query, by := q.route.Query, q.holder()
	share := r.memory.handOut(q.w, by)
	most, bytes := 1, int64(math.MaxInt64)
	if query.Limit > 1 && share.set(r.config.MaxBatchBytes, false) {
		most, bytes = min(query.Limit, r.config.MaxBatch), r.config.MaxBatchBytes
	}
	entries, err := r.config.Store.Next(ctx, q.route.Destination(), query.After, most, bytes)
	if err != nil {
		share.release()
		return answer{}, err
	}
	found := answer{pieces: wire.MakeAnswer(itemsOf(entries), query.Limit > 0), transactions: len(entries), share: share}
	if !share.set(int64(found.size()), false) {
		share.release()
		return answer{}, errNoMemory // which costs the receiver nothing
	}
	r.repeats.charge(by, entries)
	return found, nil
}

// await returns the answer with mail that arrives before the query's time is over, and
// store.ErrEmpty if none does.
func (r *retriever) await(ctx context.Context, q *request) (answer, error) {
	query, destination := q.route.Query, q.route.Destination()
	waiting, done := r.waits.begin(ctx, q.holder(), min(query.Timeout, r.config.MaxWait))
	if waiting == nil {
		return answer{}, store.ErrEmpty
	}
	defer done()
	r.busy.leave(q)
	began := time.Now()
	defer func() { q.held = time.Since(began) }()
	for {
		goOn := allowWaiting(q.w)
		err := r.config.Store.Wait(waiting, destination, query.After)
		goOn() // before there is something to send, which may be cut off
		if waiting.Err() != nil && ctx.Err() == nil {
			return answer{}, store.ErrEmpty
		}
		if err != nil {
			return answer{}, err
		}
		found, err := r.fetch(ctx, q)
		if !errors.Is(err, store.ErrEmpty) {
			return found, err
		}
	}
}

func emptyAnswer(query wire.Query) answer {
	if query.Limit > 0 {
		return answer{pieces: [][]byte{[]byte(wire.EmptyBatch)}}
	}
	return answer{pieces: [][]byte{[]byte(wire.EmptyAnswer)}}
}

func itemsOf(entries []store.Entry) []wire.Item {
	items := make([]wire.Item, len(entries))
	for i := range entries {
		e := &entries[i]
		items[i] = wire.Item{ID: e.ID, TransactionID: e.TransactionID, Transaction: wire.WithOrigin(e.Body, e.Origin), Proof: e.Proof}
	}
	return items
}

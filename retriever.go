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
	config   Config
	waits    *waits
	busy     *busy
	repeats  *repeats
	lists    lists
	memory   memory
	metrics  *metrics
	lately   *activity.Log
	receipts *receipts
}

func newRetriever(config Config, waits *waits, b *busy, m memory, metrics *metrics, lately *activity.Log, receipts *receipts) retriever {
	return retriever{config, waits, b, newRepeats(), newLists(&config), m, metrics, lately, receipts}
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
	q.memory.release() // it may have to wait
	if r.config.Asked != nil {
		r.config.Asked(destination)
	}
	query := &q.route.Query
	if !r.lists.areKnown() {
		query.List, query.IDs = false, nil
	}
	batch, err := r.repeatsOf(query).may(q.holder(), removed > 0)
	if err != nil {
		return answer{}, err
	}
	found, err := r.fetch(ctx, q, batch)
	if errors.Is(err, store.ErrEmpty) && query.Timeout > 0 && query.IDs == nil {
		found, err = r.await(ctx, q, batch)
	}
	if errors.Is(err, store.ErrEmpty) {
		found, err = emptyAnswer(*query), nil
	}
	if err != nil {
		return answer{}, fmt.Errorf("relay: reading the next entries: %w", err)
	}
	if isBatch(*query) && r.receipts.areTaken() {
		found.pieces = wire.TakingReceipts(found.pieces)
	}
	return found, nil
}

// isBatch reports whether the answer to a query is one that deployed nodes don't ask for.
func isBatch(query wire.Query) bool { return query.Limit > 0 || query.List || query.IDs != nil }

// acknowledge takes the receipts in a request, removes the entries that it acknowledges,
// and returns how many are gone.
func (r *retriever) acknowledge(ctx context.Context, q *request) (removed int, err error) {
	acknowledged, err := wire.ReadEntryID(q.Content)
	if err != nil {
		return 0, err
	}
	destination := q.route.Destination()
	if r.receipts.areTaken() {
		list, err := r.receipts.read(ctx, q, destination)
		if err != nil {
			return 0, err
		}
		if len(list) > 0 {
			return r.receipts.take(ctx, q, destination, list, acknowledged)
		}
	}
	if acknowledged == 0 {
		return 0, nil
	}
	removed, err = r.receipts.clearing.acknowledge(ctx, r.config.Store, destination, acknowledged)
	r.metrics.acknowledge(removed)
	r.lately.Acknowledged(removed)
	return removed, err
}

// repeatsOf are the debts to which a query counts.
func (r *retriever) repeatsOf(query *wire.Query) *repeats {
	if query.List {
		return r.lists.repeats
	}
	return r.repeats
}

// fetch returns the answer with as many entries as are asked for and as it may
// hold, or with one unless it may be a batch. If there is no room for a batch, it is a
// short one, too. All IDs are looked for nevertheless: those that are left out before the
// last in the answer, or of an empty one, are gone.
func (r *retriever) fetch(ctx context.Context, q *request, batch bool) (answer, error) {
	query, by := q.route.Query, q.holder()
	share := r.memory.handOut(q.w, by)
	most, bytes := 1, int64(math.MaxInt64)
	if batch && max(query.Limit, len(query.IDs)) > 1 && share.set(r.config.MaxBatchBytes, false) {
		most, bytes = min(max(query.Limit, len(query.IDs)), r.config.MaxBatch), r.config.MaxBatchBytes
	}
	found, entries, err := r.read(ctx, q, most, bytes)
	if err != nil {
		share.release()
		return answer{}, err
	}
	found.share = share
	if !share.set(int64(found.size()), false) {
		share.release()
		return answer{}, errNoMemory // which costs the receiver nothing
	}
	r.repeatsOf(&query).charge(by, entries)
	return found, nil
}

// read reads the entries for an answer, up to that many and as many bytes.
func (r *retriever) read(ctx context.Context, q *request, most int, bytes int64) (answer, []given, error) {
	query, destination := q.route.Query, q.route.Destination()
	if query.List {
		return r.lists.list(ctx, destination, query.After, min(most, max(int(bytes/listedBytes), 1)))
	}
	var entries []store.Entry
	var err error
	if query.IDs != nil {
		entries, err = r.lists.wanted(ctx, destination, query.IDs, most, bytes)
	} else {
		entries, err = r.config.Store.Next(ctx, destination, query.After, most, bytes)
	}
	if err != nil {
		return answer{}, nil, err
	}
	all := make([]given, len(entries))
	for i := range entries {
		all[i] = given{entries[i].ID, len(entries[i].Body) + len(entries[i].Proof)}
	}
	return answer{pieces: wire.MakeAnswer(itemsOf(entries), isBatch(query)), transactions: len(entries)}, all, nil
}

// await returns the answer with mail that arrives before the query's time is over, and
// store.ErrEmpty if none does.
func (r *retriever) await(ctx context.Context, q *request, batch bool) (answer, error) {
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
		found, err := r.fetch(ctx, q, batch)
		if !errors.Is(err, store.ErrEmpty) {
			return found, err
		}
	}
}

func emptyAnswer(query wire.Query) answer {
	if isBatch(query) {
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

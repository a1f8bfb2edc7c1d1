package relay

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// receipts take the receipts that destinations have signed for mail that they have handled,
// keep them for the senders, and remove that mail. Nothing depends on which server brings them.
type receipts struct {
	config   *Config
	checks   *checks
	metrics  *metrics
	lately   *activity.Log
	clearing *clearing     // nil: none are taken
	kept     *keptReceipts // likewise
}

func newReceipts(config *Config, checks *checks, metrics *metrics, lately *activity.Log) *receipts {
	r := &receipts{config: config, checks: checks, metrics: metrics, lately: lately}
	notes, isNotes := config.Store.(store.Notes)
	if mail, ok := config.Store.(store.Managed); ok && isNotes && config.MaxReceipts > 0 {
		r.kept = newKeptReceipts(notes, config)
		r.clearing = newClearing(mail, r.kept)
	}
	return r
}

func (r *receipts) areTaken() bool { return r.kept != nil }

// serve is the fourth stage of a request for receipts, or with some.
func (r *receipts) serve(ctx context.Context, q *request) (answer, error) {
	switch {
	case !r.areTaken():
		return answer{}, wire.Unrecognized()
	case q.Method == http.MethodPut:
		return r.put(ctx, q)
	case q.route.Server == "":
		return answer{}, wire.BadRequest(spec.ErrorInvalidParam, "destination is missing")
	}
	found, err := r.kept.after(ctx, q.route.Server, q.signer, q.route.Query.After, wire.MaxReceiptsBytes)
	if err != nil {
		return answer{}, err
	}
	return answer{pieces: [][]byte{found.AnswerWith([]byte(wire.SentAnswer))}}, nil
}

// put takes receipts of any destinations. All that it has done is on the disk when it
// returns.
func (r *receipts) put(ctx context.Context, q *request) (answer, error) {
	list, err := r.read(ctx, q, "")
	if err != nil {
		return answer{}, err
	}
	cleared := 0
	for len(list) > 0 {
		destination := list[0].Destination
		isOther := func(one wire.Receipt) bool { return one.Destination != destination }
		mine := slices.DeleteFunc(slices.Clone(list), isOther)
		list = slices.DeleteFunc(list, func(one wire.Receipt) bool { return !isOther(one) })
		removed, err := r.take(ctx, q, destination, mine, 0)
		if err != nil {
			return answer{}, err
		}
		cleared += removed
	}
	return answer{pieces: [][]byte{wire.ClearedAnswer(cleared)}}, nil
}

// read reads the receipts in a request, without those for mailboxes that are empty, and
// checks their signatures: where it can also of the former, so that a wrong one doesn't
// tell a stranger whether there is mail. Unless destination is empty, they must all be its.
func (r *receipts) read(ctx context.Context, q *request, destination spec.ServerName) (signed []wire.Receipt, err error) {
	all, err := wire.ReadReceipts(q.Content)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if destination != "" && all[i].Destination != destination {
			return nil, wire.Forbidden("a receipt is another server's")
		}
		usage, err := r.config.Store.Usage(ctx, all[i].Destination)
		if err != nil {
			return nil, fmt.Errorf("relay: usage of a mailbox: %w", err)
		}
		if usage.Entries == 0 && !all[i].HasKnownKey(r.config.Keys) { // so that none is looked up for it
			continue
		}
		err = r.checks.ofObject(ctx, q, "a receipt", func(ctx context.Context) error {
			return all[i].Check(ctx, r.config.Keys, time.Now())
		})
		if err != nil {
			return nil, err
		}
		if usage.Entries > 0 {
			signed = append(signed, all[i])
		}
	}
	return signed, nil
}

// take keeps receipts of one destination if there is mail that they are for, acknowledges
// an entry (0: none), and removes the rest of that mail. It returns how many entries are
// gone. While it does so no other request does it for that destination: a receipt that
// comes twice finds no mail.
func (r *receipts) take(ctx context.Context, q *request, destination spec.ServerName, list []wire.Receipt, acknowledged int64) (removed int, err error) {
	unlock, err := r.kept.writing.Take(ctx, destination)
	if err != nil {
		return 0, err
	}
	removed, kept, err := r.takeLocked(ctx, q, destination, list, acknowledged)
	unlock()
	r.metrics.acknowledge(removed)
	r.lately.Acknowledged(removed)
	if err == nil && kept {
		err = r.kept.lookFurther(ctx)
	}
	if err == nil && removed > 0 {
		err = r.clearing.forget(ctx)
	}
	return removed, err
}

func (r *receipts) takeLocked(ctx context.Context, q *request, destination spec.ServerName, list []wire.Receipt, acknowledged int64) (removed int, kept bool, err error) {
	found, err := r.clearing.find(ctx, destination, list)
	if err != nil {
		return 0, false, err
	}
	if len(found.ids) == 0 {
		r.checks.debts.add(q.memory.by.from, time.Duration(found.looked)*lookCost)
	}
	// Its origin has a receipt that it brings.
	keep := slices.DeleteFunc(found.good, func(one wire.Receipt) bool { return one.Origin == q.signer || !isPlain(&one) })
	if len(keep) > 0 {
		grown, err := r.kept.keep(ctx, destination, keep)
		if err != nil {
			return 0, false, err
		}
		q.admission.used.Stored += grown
	}
	ids := found.ids
	if acknowledged > 0 {
		if removed, err = r.clearing.acknowledge(ctx, r.config.Store, destination, acknowledged); err != nil {
			return 0, false, err
		}
		if removed > 0 {
			ids = slices.DeleteFunc(ids, func(id int64) bool { return id <= acknowledged })
		}
	}
	cleared, err := r.clearing.remove(ctx, destination, ids)
	return removed + cleared, len(keep) > 0, err
}

// tell puts the receipts that the sender asks for into the answer to it. That they can't be
// read doesn't matter to the mail.
func (r *receipts) tell(ctx context.Context, q *request, sent []byte) []byte {
	query := q.route.Query
	if !query.Receipts || !r.areTaken() {
		return sent
	}
	found, err := r.kept.after(ctx, q.route.Destination(), q.signer, query.After, wire.MaxSentReceiptsBytes)
	if err != nil {
		return sent
	}
	return found.AnswerWith(sent)
}

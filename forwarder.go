package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A forwarder takes transactions in: it is the fourth stage of send_relay.
type forwarder struct {
	config   Config
	checks   *checks
	metrics  *metrics
	lately   *activity.Log
	records  *records
	receipts *receipts
}

// put stores the transaction in a request, or hands it to the embedder if it is
// for this server, and returns the answer. The store has it on the disk by then.
func (f *forwarder) put(ctx context.Context, q *request) (answer, error) {
	transaction, proof, passedOn, err := q.Body().CutProof()
	if err != nil {
		return answer{}, err
	}
	mail, sent := store.Mail{Destination: q.route.Destination(), TransactionID: q.route.TransactionID}, wire.SentAnswer
	local := f.config.isLocal(mail.Destination)
	deliver := local && f.config.Deliver != nil
	if passedOn && local && !deliver {
		// Its sender would be rid of it, and nobody asks us for our own.
		return answer{}, wire.Forbidden("this server fetches its mail, and isn't handed it")
	}
	if size := int64(len(transaction.JSON())); size > f.config.MaxBodyBytes { // without a proof
		return answer{}, tooLarge(f.config.MaxBodyBytes)
	}
	if passedOn {
		sent = wire.ProvenAnswer
		other := passed{
			config: &f.config, checks: f.checks, metrics: f.metrics, transaction: transaction, proof: proof, kept: !deliver,
			admission: &q.admission, lifetime: q.admission.asked.Room.Lifetime,
		}
		err = other.read(ctx, &mail, q.memory)
	} else {
		err = f.readOwn(&mail, q)
	}
	if err != nil {
		return answer{}, err
	}
	if deliver {
		err = f.config.Deliver(ctx, Delivery{mail.Origin, mail.TransactionID, mail.Body})
	} else {
		err = f.store(ctx, mail, &q.admission)
	}
	if err != nil {
		return answer{}, err
	}
	told := f.records.tell(ctx, mail.Destination, sent)
	return answer{pieces: [][]byte{f.receipts.tell(ctx, q, told)}}, nil
}

// readOwn reads a transaction that its origin leaves here itself.
func (f *forwarder) readOwn(mail *store.Mail, q *request) error {
	content, err := q.Body().Content()
	if err != nil {
		return err
	}
	if content.HasOrigin && content.Origin != q.signer {
		return wire.Forbidden("the transaction's origin isn't the server that signed the request")
	}
	mail.Origin, mail.Body, mail.Digest = q.signer, q.Content, content.Digest
	if proof, ok := wire.ProofOf(&q.SignedRequest, f.config.ServerName); ok {
		mail.Proof = proof.JSON()
	}
	mail.Lifetime = q.admission.asked.Room.Lifetime
	return nil
}

// store stores mail, in the room that the policy gives it.
func (f *forwarder) store(ctx context.Context, mail store.Mail, a *admission) error {
	if limit := largest(f.config.limits()); limit > 0 && mail.Size() > limit {
		return tooLarge(limit) // it wouldn't fit an empty mailbox
	}
	room := &a.asked.Room
	stored, err := f.config.Store.Put(ctx, mail, room.Limits)
	if errors.Is(err, store.ErrFull) && room.Spare != nil {
		stored, err = f.config.Store.Put(ctx, mail, *room.Spare)
	}
	if errors.Is(err, store.ErrFull) {
		return &wire.Error{
			Status: http.StatusInsufficientStorage, Code: wire.ErrorResourceLimitExceeded,
			Message: "there is no room for this transaction",
		}
	}
	if err != nil {
		return fmt.Errorf("relay: storing a transaction: %w", err)
	}
	f.metrics.put(stored)
	if !stored {
		return nil
	}
	a.used.Stored = mail.Size()
	f.lately.Stored(a.used.Stored)
	if f.config.Stored != nil {
		f.config.Stored(mail.Destination)
	}
	return nil
}

// largest is the largest mail that fits the limits, 0 if there are none.
func largest(limits store.Limits) (size int64) {
	for _, limit := range []int64{limits.Bytes, limits.OriginBytes, limits.StoreBytes} {
		if limit > 0 && (size == 0 || limit < size) {
			size = limit
		}
	}
	return size
}

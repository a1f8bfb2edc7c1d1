package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrixrelay/relay/wire"
)

// A ProofStatus says whether a transaction is proven to come from its origin.
type ProofStatus int

const (
	// NoProof means that the relay has none, or that proofs aren't checked.
	NoProof ProofStatus = iota

	// Unchecked means that there is one, and the origin's key couldn't be had.
	Unchecked

	// Proven means that its origin signed just this for this server. A relay can
	// still hold it back, reorder it, or bring it back later.
	Proven
)

// Errors that ReceiverConfig.Rejected is told of, besides wire.ErrProof.
var (
	ErrUnproven = errors.New("client: there is no proof of origin")
	ErrTooOld   = errors.New("client: the transaction is too old")
)

// take deals with one transaction. It succeeds if that may be acknowledged.
func (r *Receiver) take(ctx context.Context, d *Drained, answer wire.Answer) error {
	received := Received{Relay: d.Relay, EntryID: answer.EntryID, TransactionID: answer.TransactionID, Body: answer.Transaction}
	why := r.examine(ctx, &received, answer.Proof)
	if errors.Is(why, wire.ErrProof) || errors.Is(why, ErrUnproven) || errors.Is(why, ErrTooOld) {
		d.Rejected++
		r.config.Logger.Warn("client: a transaction is rejected", "relay", d.Relay, "entry", answer.EntryID, "error", why)
		if r.config.Rejected != nil {
			r.config.Rejected(ctx, received, why)
		}
		return nil
	}
	if why != nil {
		return why
	}
	content, err := wire.ReadContent(received.Body)
	if err != nil {
		d.Unreadable++
		r.config.Logger.Warn("client: a transaction can't be read and is passed over", "relay", d.Relay, "entry", answer.EntryID, "error", err)
		return nil
	}
	received.Origin = content.Origin
	from := source{relay: d.Relay, entry: received.EntryID, id: received.TransactionID}
	handled, err := r.config.Seen.once(ctx, seenKeyOf(content.Origin, content.Digest), from, func() error {
		return r.config.Handle(ctx, received)
	})
	switch {
	case err != nil:
		return err
	case handled:
		d.Handled++
	default:
		d.Dropped++
	}
	return nil
}

// examine checks the proof, and takes over what it proves. It returns why the
// transaction is to be rejected; any other error is that of finding out.
func (r *Receiver) examine(ctx context.Context, received *Received, encoded []byte) error {
	if r.config.Keys == nil {
		return nil
	}
	if len(encoded) == 0 {
		return r.unproven()
	}
	proof, err := wire.ReadProof(encoded)
	if err != nil {
		return err
	}
	proven, err := proof.Check(ctx, r.config.Keys, received.Body, r.self)
	if errors.Is(err, wire.ErrNoKey) {
		received.Proof = Unchecked
		return r.withoutKey(received, err)
	}
	if err != nil {
		return err
	}
	received.Proof, received.TransactionID = Proven, proven.TransactionID
	received.Body = wire.WithOrigin(proven.Content, proven.Origin)
	if r.config.MaxAge > 0 && time.Since(proven.Signed.Time()) > r.config.MaxAge {
		return fmt.Errorf("%w: it was signed at %v", ErrTooOld, proven.Signed.Time().UTC())
	}
	return nil
}

func (r *Receiver) unproven() error {
	if r.config.RequireProof {
		return ErrUnproven
	}
	return nil
}

// keyless is an entry whose origin's key can't be had, since then.
type keyless struct {
	entry int64
	since time.Time
}

// withoutKey says what becomes of mail whose proof can't be checked: where proof
// is required, it is asked for again for a while.
func (r *Receiver) withoutKey(received *Received, err error) error {
	if !r.config.RequireProof {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	have := r.keyless[received.Relay]
	if have.entry != received.EntryID {
		have = keyless{received.EntryID, time.Now()}
		r.keyless[received.Relay] = have
	}
	if time.Since(have.since) < r.config.KeyPatience {
		return err
	}
	delete(r.keyless, received.Relay)
	return fmt.Errorf("%w: %w", ErrUnproven, err)
}

package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
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

// String names the status.
func (s ProofStatus) String() string {
	names := [...]string{"no proof", "unchecked", "proven"}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("ProofStatus(%d)", int(s))
	}
	return names[s]
}

// Errors that ReceiverConfig.Rejected is told of, besides wire.ErrProof.
var (
	ErrUnproven = errors.New("client: there is no proof of origin")
	ErrTooOld   = errors.New("client: the transaction is too old")
)

// take deals with one transaction. It succeeds if that may be acknowledged, and
// reports whether it was of use: see junk.
func (m *mailbox) take(ctx context.Context, answer wire.Answer) (use bool, err error) {
	r, d := m.receiver, &m.Drained
	if answer.IsListed() {
		return m.takeKnown(&answer), nil
	}
	received := Received{Relay: d.Relay, EntryID: answer.EntryID, TransactionID: answer.TransactionID, Body: answer.Transaction}
	digest, why := r.examine(ctx, &received, answer)
	if err := ctx.Err(); err != nil { // a look-up of keys that was cut short proves nothing
		return false, err
	}
	if errors.Is(why, wire.ErrProof) || errors.Is(why, ErrUnproven) || errors.Is(why, ErrTooOld) {
		d.Rejected++
		received.Origin = cmp.Or(received.Origin, originOf(answer))
		r.complain(ctx, d, &received, why)
		if r.config.Rejected != nil {
			r.config.Rejected(ctx, received, why)
		}
		return false, nil
	}
	if why != nil {
		return false, why
	}
	if received.Proof != Proven { // else it was read to check that
		content, err := wire.ReadContent(received.Body)
		if err != nil {
			d.Unreadable++
			received.Origin = originOf(answer)
			r.complain(ctx, d, &received, err)
			return false, nil
		}
		received.Origin, digest = content.Origin, content.Digest
	}
	from := source{relay: d.Relay, entry: received.EntryID, id: received.TransactionID}
	from.unproven, from.quiet = r.config.Keys != nil && received.Proof != Proven, hasReceiptsOnly(received.Body)
	came, err := r.config.History.once(ctx, seenKeyOf(received.Origin, digest), from, func() error {
		return r.config.Handle(ctx, received)
	})
	switch {
	case err != nil:
		return false, err
	case came.toHandle():
		d.Handled++
	default:
		d.Copies++
	}
	if r.config.Receipts && received.Proof == Proven && came.certain && !from.quiet {
		m.giving.owe(received.Origin, wire.ReceiptItem{TransactionID: received.TransactionID, Digest: digest})
	}
	return came.dealing == isHandled || came.dealing == isCopy, nil
}

// complain logs why a transaction isn't handled. Only the first of a fetch is a
// warning, or a relay could fill the log.
func (r *Receiver) complain(ctx context.Context, d *Drained, received *Received, why error) {
	level := slog.LevelWarn
	if d.Rejected+d.Unreadable > 1 {
		level = slog.LevelDebug
	}
	r.config.Logger.Log(ctx, level, "client: a transaction is acknowledged and not handled",
		"relay", received.Relay, "entry", received.EntryID, "origin", received.Origin, "error", why)
}

// examine checks the proof, and takes over the origin, the ID and the content that
// it proves. The digest is that of the Proven content. The error is the reason to
// reject the transaction, or a failure to find out whether there is one.
func (r *Receiver) examine(ctx context.Context, received *Received, answer wire.Answer) (digest [sha256.Size]byte, why error) {
	if r.config.Keys == nil {
		return digest, nil
	}
	if len(answer.Proof) == 0 {
		return digest, r.unproven()
	}
	proof, err := wire.ReadProof(answer.Proof)
	if err != nil {
		return digest, err
	}
	proven, err := proof.Check(ctx, r.config.Keys, received.Body, r.self)
	if errors.Is(err, wire.ErrNoKey) {
		received.Proof = Unchecked
		return digest, r.withoutKey(received, keyless{received.Relay, originOf(answer)}, err)
	}
	if err != nil {
		return digest, err
	}
	r.withKey(keyless{received.Relay, proven.Origin})
	received.Proof, received.Origin, received.TransactionID = Proven, proven.Origin, proven.TransactionID
	received.Body = wire.WithOrigin(proven.Content, proven.Origin)
	return proven.Digest, r.checkAge(proven.Signed.Time())
}

// checkAge returns why a transaction that was signed then is too old, or held until
// that is certain.
func (r *Receiver) checkAge(signed time.Time) error {
	if r.config.MaxAge <= 0 {
		return nil
	}
	old, certain := r.calendar.isPast(signed.Add(r.config.MaxAge))
	switch {
	case !old:
		return nil
	case !certain:
		return &heldError{fmt.Errorf("it was signed at %v, which is too long ago unless our clock is wrong", signed.UTC())}
	}
	return fmt.Errorf("%w: it was signed at %v", ErrTooOld, signed.UTC())
}

func (r *Receiver) unproven() error {
	if r.config.RequireProof {
		return ErrUnproven
	}
	return nil
}

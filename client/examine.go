package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

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

// take deals with one transaction. It succeeds if that may be acknowledged, and
// reports whether it was of use: see junk.
func (r *Receiver) take(ctx context.Context, d *Drained, answer wire.Answer) (use bool, err error) {
	received := Received{Relay: d.Relay, EntryID: answer.EntryID, TransactionID: answer.TransactionID, Body: answer.Transaction}
	digest, why := r.examine(ctx, &received, answer.Proof)
	if errors.Is(why, wire.ErrProof) || errors.Is(why, ErrUnproven) || errors.Is(why, ErrTooOld) {
		d.Rejected++
		if content, err := wire.ReadContent(received.Body); err == nil {
			received.Origin = cmp.Or(received.Origin, content.Origin)
		}
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
			r.complain(ctx, d, &received, err)
			return false, nil
		}
		received.Origin, digest = content.Origin, content.Digest
	}
	from := source{relay: d.Relay, entry: received.EntryID, id: received.TransactionID}
	from.unproven = r.config.Keys != nil && received.Proof != Proven
	dealt, err := r.config.Seen.once(ctx, seenKeyOf(received.Origin, digest), from, func() error {
		return r.config.Handle(ctx, received)
	})
	switch {
	case err != nil:
		return false, err
	case dealt.toHandle():
		d.Handled++
	default:
		d.Dropped++
	}
	return dealt == isHandled || dealt == isCopy, nil
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

// examine checks the proof, and takes over what it proves. The digest is that of
// what is Proven. It returns why the transaction is to be rejected; any other
// error is that of finding out.
func (r *Receiver) examine(ctx context.Context, received *Received, encoded []byte) (digest [sha256.Size]byte, why error) {
	if r.config.Keys == nil {
		return digest, nil
	}
	if len(encoded) == 0 {
		return digest, r.unproven()
	}
	proof, err := wire.ReadProof(encoded)
	if err != nil {
		return digest, err
	}
	proven, err := proof.Check(ctx, r.config.Keys, received.Body, r.self)
	if errors.Is(err, wire.ErrNoKey) {
		received.Proof = Unchecked
		return digest, r.withoutKey(received, keylessOf(received, proof), err)
	}
	if err != nil {
		return digest, err
	}
	r.withKey(keyless{received.Relay, proven.Origin})
	received.Proof, received.Origin, received.TransactionID = Proven, proven.Origin, proven.TransactionID
	received.Body = wire.WithOrigin(proven.Content, proven.Origin)
	if r.config.MaxAge > 0 && time.Since(proven.Signed.Time()) > r.config.MaxAge {
		return digest, fmt.Errorf("%w: it was signed at %v", ErrTooOld, proven.Signed.Time().UTC())
	}
	return proven.Digest, nil
}

func (r *Receiver) unproven() error {
	if r.config.RequireProof {
		return ErrUnproven
	}
	return nil
}

// A keyless is an origin whose key can't be had, for mail of a relay.
type keyless struct{ relay, origin spec.ServerName }

func keylessOf(received *Received, proof wire.Proof) keyless {
	if proof.Origin == "" {
		content, _ := wire.ReadContent(received.Body) // what is checked can be read
		proof.Origin = content.Origin
	}
	return keyless{received.Relay, proof.Origin}
}

// A patience is since when a key was asked for in vain, and for which entry last.
type patience struct {
	since, last time.Time
	entry       int64
}

// maxKeyless bounds for whom there is patience. When there are too many, it
// begins anew for any of them.
const maxKeyless = 1000

// withoutKey says what becomes of mail whose proof can't be checked: where proof
// is required, it is asked for again for a while. For what comes next of the
// same origin the while doesn't begin anew, or it could hold up a mailbox for
// ever.
func (r *Receiver) withoutKey(received *Received, who keyless, err error) error {
	if !r.config.RequireProof {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	have, known := r.keyless[who]
	if !known || have.entry != received.EntryID && now.Sub(have.last) > r.config.KeyPatience {
		have.since = now
	}
	have.last, have.entry = now, received.EntryID
	if !known {
		makeRoom(r.keyless, maxKeyless)
	}
	r.keyless[who] = have
	if now.Sub(have.since) < r.config.KeyPatience {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnproven, err)
}

func (r *Receiver) withKey(who keyless) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keyless, who)
}

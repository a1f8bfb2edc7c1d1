package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// passed is a transaction that somebody passes on. Its proof, not who that is,
// says where it comes from.
type passed struct {
	body      *wire.Body
	proof     wire.Proof
	share     *share
	origin    spec.ServerName // claimed
	canonical bool
	kept      bool // its age counts
}

// readPassedOn reads a transaction that somebody passes on.
func (f *forwarder) readPassedOn(ctx context.Context, mail *store.Mail, p passed) error {
	if int64(len(p.body.JSON())) > f.config.MaxBodyBytes {
		return tooLarge(f.config.MaxBodyBytes)
	}
	if err := p.readClaims(); err != nil {
		return err
	}
	if err := f.config.admit(ctx, p.origin, mail.Destination); err != nil {
		return err // before anybody is asked for keys
	}
	proven, err := f.check(ctx, p, mail.Destination)
	if err != nil {
		return err
	}
	if proven.Origin != p.origin || proven.TransactionID != mail.TransactionID {
		return wire.Forbidden("the transaction was signed with another ID, or by another server")
	}
	// Not p.body: only this was signed.
	mail.Origin, mail.Body, mail.Digest, mail.Proof = proven.Origin, proven.Content, proven.Digest, p.proof.JSON()
	if !p.kept {
		return nil
	}
	return f.limitAge(mail, proven.Signed.Time())
}

// limitAge counts the time since mail was signed as a part of its lifetime: else
// it would live for ever by being passed on. A clock of ours that is behind can
// only make it live longer, and while it is far ahead mail is refused with an
// answer after which a sender keeps it and comes again.
func (f *forwarder) limitAge(mail *store.Mail, signed time.Time) error {
	if f.config.Lifetime < 0 {
		return nil
	}
	mail.Lifetime = f.config.Lifetime - max(time.Since(signed), 0)
	if mail.Lifetime <= 0 {
		return wire.Forbidden("the transaction is older than what this relay keeps")
	}
	return nil
}

// readClaims reads what isn't proven yet.
func (p *passed) readClaims() error {
	content, err := p.body.Content()
	if err != nil {
		return err
	}
	p.origin, p.canonical = content.Origin, content.Canonical
	if p.proof.Origin != "" {
		p.origin = p.proof.Origin
	}
	if p.origin == "" {
		return wire.Forbidden("the transaction has no origin")
	}
	return nil
}

// check checks the proof.
func (f *forwarder) check(ctx context.Context, p passed, destination spec.ServerName) (proven wire.Proven, err error) {
	size := int64(len(p.body.JSON()))
	quick := size <= small || p.canonical && f.isKnown(p.origin, p.proof)
	err = p.share.whileChecking(ctx, size, quick, func(ctx context.Context) (err error) {
		proven, err = p.proof.CheckBody(ctx, f.verifier.Keys, p.body, destination)
		return err
	})
	switch {
	case errors.Is(err, wire.ErrProof):
		return proven, wire.Forbidden("the transaction was not signed by its origin for this destination")
	case errors.Is(err, wire.ErrNoKey): // may be there later
		return proven, wire.KeyUnavailable()
	case err != nil:
		return proven, fmt.Errorf("relay: checking a proof of origin: %w", err)
	}
	return proven, nil
}

// isKnown reports whether the key is known without asking anyone.
func (f *forwarder) isKnown(origin spec.ServerName, proof wire.Proof) bool {
	keys, ok := f.verifier.Keys.(wire.KnownKeys)
	if ok {
		_, ok = keys.KnownKey(origin, proof.Key)
	}
	return ok
}

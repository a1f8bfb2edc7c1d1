package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// passed is a transaction that somebody passes on. Its proof, not the server that
// signed the request, says where it comes from.
type passed struct {
	config      *Config
	checks      *checks
	metrics     *metrics
	transaction *wire.Body
	proof       wire.Proof
	origin      spec.ServerName // claimed
	kept        bool            // its age counts
	admission   *admission
	lifetime    time.Duration // of mail that is kept, 0 for ever
}

// read reads the transaction into mail.
func (p *passed) read(ctx context.Context, mail *store.Mail, memory *share) error {
	if err := p.readClaims(); err != nil {
		return err
	}
	if err := p.admission.passedOn(ctx, p.origin); err != nil {
		return err // before anybody is asked for keys
	}
	proven, err := p.check(ctx, memory, mail.Destination)
	if err != nil {
		return err
	}
	if proven.Origin != p.origin || proven.TransactionID != mail.TransactionID {
		return wire.Forbidden("the transaction was signed with another ID, or by another server")
	}
	// Not as it came: only this was signed.
	mail.Origin, mail.Body, mail.Digest, mail.Proof = proven.Origin, proven.Content, proven.Digest, p.proof.JSON()
	if !p.kept {
		return nil
	}
	return p.limitAge(mail, proven.Signed.Time())
}

// limitAge counts the time since mail was signed as a part of its lifetime: else
// it would live for ever by being passed on. A clock of ours that is behind can
// only make it live longer, and while it is far ahead mail is refused with an
// answer after which a sender keeps it and comes again.
func (p *passed) limitAge(mail *store.Mail, signed time.Time) error {
	if p.lifetime == 0 {
		return nil
	}
	mail.Lifetime = p.lifetime - max(time.Since(signed), 0)
	if mail.Lifetime <= 0 {
		return wire.Forbidden("the transaction is older than what this relay keeps")
	}
	return nil
}

// readClaims reads the origin that the request claims, which isn't proven yet.
func (p *passed) readClaims() error {
	content, err := p.transaction.Content()
	if err != nil {
		return err
	}
	if p.origin = cmp.Or(p.proof.Origin, content.Origin); p.origin == "" {
		return wire.Forbidden("the transaction has no origin")
	}
	return nil
}

// check checks the proof.
func (p *passed) check(ctx context.Context, memory *share, destination spec.ServerName) (proven wire.Proven, err error) {
	keyIsKnown := p.proof.IsKeyKnown(p.config.Keys, p.origin)
	err = p.checks.run(ctx, memory, p.transaction, keyIsKnown, func(ctx context.Context) (err error) {
		began := time.Now()
		proven, err = p.proof.CheckBody(ctx, p.config.Keys, p.transaction, destination)
		if !keyIsKnown {
			p.metrics.lookedUp(began, err)
		}
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

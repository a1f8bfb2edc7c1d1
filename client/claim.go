package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// Claim claims this server's mailbox at a relay with an invite, which its operator
// made. It returns nil once the relay keeps mail for this server; to claim it again is
// harmless. A *wire.Error of 403 says that the invite isn't valid (any more), of 404
// that the relay knows no invites, of 507 that it has no room for another mailbox.
func (c *Caller) Claim(ctx context.Context, relay spec.ServerName, invite string) error {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	if !c.isWhole() {
		return fmt.Errorf("client: claim at %s: %w", relay, errNeedsTransport)
	}
	ctx = c.toward(ctx, c.config.Identity.ServerName, relay)
	claim, err := wire.NewClaim(invite, relay, c.config.Identity.ServerName)
	if err != nil {
		return fmt.Errorf("client: claim at %s: %w", relay, err)
	}
	answer, err := c.call(ctx, http.MethodPut, relay, wire.MailboxURI, claim)
	return isAnswer(answer, err)
}

var errNeedsTransport = errors.New("it needs CallerConfig.Transport, or a Federation that is an HTTPDoer")

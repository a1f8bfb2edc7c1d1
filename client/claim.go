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
	claim, err := wire.NewClaim(invite, relay, c.config.Identity.ServerName)
	if err != nil {
		return fmt.Errorf("client: claim at %s: %w", relay, err)
	}
	return c.own(ctx, http.MethodPut, relay, wire.MailboxURI, claim, &struct{}{})
}

var errNeedsTransport = errors.New("it needs CallerConfig.Transport, or a Federation that is an HTTPDoer")

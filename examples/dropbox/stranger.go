package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrix"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// letStrangerTry has C, a node with a good key, ask for B's mail.
func (s *story) letStrangerTry(ctx context.Context) error {
	c, err := newIdentity()
	if err != nil {
		return err
	}
	s.say("\nC, a stranger, asks for B's mail, and acknowledges it to have it deleted:")
	for _, relay := range []spec.ServerName{relay1, relay2} {
		err := askFor(ctx, c, &s.roads, s.b.ServerName, relay)
		var answer gomatrix.HTTPError
		ok := errors.As(err, &answer)
		if err == nil {
			return fmt.Errorf("%s gave B's mail to C", relay)
		}
		if !ok || answer.Code != http.StatusForbidden {
			return fmt.Errorf("C must get 403 for B's mail, but got: %w", err)
		}
		s.say("    %s: %d %s", relay, answer.Code, answer.Contents)
	}
	return nil
}

// askFor asks a relay for the mail of another server, which no honest node
// does, and says that it has dealt with all there can be.
func askFor(ctx context.Context, id fclient.SigningIdentity, roads http.RoundTripper, victim, relay spec.ServerName) error {
	user, err := wire.UserAt(victim)
	if err != nil {
		return err
	}
	signed := fclient.NewFederationRequest(http.MethodGet, id.ServerName, relay, wire.RelayTxnURI(user))
	if err := signed.SetContent(fclient.RelayEntry{EntryID: store.MaxID}); err != nil {
		return err
	}
	if err := signed.Sign(id.ServerName, id.KeyID, id.PrivateKey); err != nil {
		return err
	}
	request, err := signed.HTTPRequest()
	if err != nil {
		return err
	}
	federation := fclient.NewFederationClient([]*fclient.SigningIdentity{&id}, fclient.WithTransport(roads))
	return federation.DoRequestAndParseResponse(ctx, request, new(fclient.RespGetRelayTransaction))
}

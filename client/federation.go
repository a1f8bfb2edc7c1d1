package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrix"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// An HTTPDoer sends requests. A *fclient.Client is one, and so is each
// fclient.FederationClient that fclient makes.
type HTTPDoer interface {
	DoHTTPRequest(ctx context.Context, request *http.Request) (*http.Response, error)
}

// FederationTransport is the transport of a homeserver's client, with its ways to
// find servers and its time-out. An answer that is held for longer than that (30
// seconds, unless fclient.WithTimeout says otherwise) is an error, so a Receiver
// whose Wait is longer is better served by a client with a longer time-out. The
// answer to a redirect is an error.
func FederationTransport(client HTTPDoer) http.RoundTripper { return federationTransport{client} }

type federationTransport struct{ client HTTPDoer }

// RoundTrip implements http.RoundTripper.
func (t federationTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context()) // the client changes its headers and its URL
	out.GetBody = nil           // nor is the body to follow redirects
	response, err := t.client.DoHTTPRequest(r.Context(), out)
	if err != nil {
		return nil, err
	}
	if response.Request != nil && response.Request.Response != nil {
		return nil, errors.Join(errRedirected, response.Body.Close())
	}
	return response, nil
}

// The signature is good for the server it was made for only.
var errRedirected = errors.New("client: the answer is that of a redirect")

// isWhole reports whether the Caller can make all requests. If not, federated
// makes those that can be made.
func (c *Caller) isWhole() bool { return c.config.Transport != nil }

func (c *Caller) federated() federated {
	return federated{c.config.Federation, c.config.Identity.ServerName}
}

// federated makes the calls with a fclient.FederationClient that is no HTTPDoer,
// as a deployed homeserver makes them.
type federated struct {
	client fclient.FederationClient
	self   spec.ServerName
}

func (f federated) toRelay(ctx context.Context, relay spec.ServerName, user spec.UserID, t Transaction) error {
	full, err := f.decode(t)
	if err == nil {
		_, err = f.client.P2PSendTransactionToRelay(ctx, user, full, relay)
	}
	return f.failure(relay, err)
}

func (f federated) direct(ctx context.Context, t Transaction) error {
	full, err := f.decode(t)
	if err == nil {
		_, err = f.client.SendTransaction(ctx, full)
	}
	return f.failure(t.Destination, err)
}

func (f federated) next(ctx context.Context, relay spec.ServerName, user spec.UserID, acknowledge int64) (wire.Answer, error) {
	got, err := f.client.P2PGetTransactionFromRelay(ctx, user, fclient.RelayEntry{EntryID: acknowledge}, relay)
	if err != nil || !got.EntriesQueued {
		return wire.Answer{}, f.failure(relay, err)
	}
	body, err := json.Marshal(got.Transaction)
	return wire.Answer{Transaction: body, EntryID: got.EntryID, EntriesQueued: true}, f.failure(relay, err)
}

func (f federated) decode(t Transaction) (full gomatrixserverlib.Transaction, err error) {
	if t.Proof != nil {
		return full, ErrNotPassedOn
	}
	if err := json.Unmarshal(t.Body, &full); err != nil {
		return full, fmt.Errorf("%w: %w", ErrUnsendable, err)
	}
	full.TransactionID, full.Origin, full.Destination = t.ID, f.self, t.Destination
	return full, nil
}

// failure makes a *wire.Error of an error answer.
func (f federated) failure(server spec.ServerName, err error) error {
	if err == nil {
		return nil
	}
	var e gomatrix.HTTPError
	if errors.As(err, &e) {
		err = wire.ParseError(e.Code, nil, e.Contents)
	}
	return fmt.Errorf("client: %s: %w", server, err)
}

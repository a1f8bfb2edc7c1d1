// Package client is the side of a relay's users: the node that leaves
// transactions for others, and the one that fetches its own.
//
// A Sender brings a transaction on its way: directly, and through all relays of
// a destination that is offline. An Outbox keeps transactions until they are
// delivered. A Receiver fetches the mail that all relays hold for this server and
// hands each transaction to a handler once. Peers knows which servers relay for which
// others, and which count as offline.
//
// Below them a Caller makes the calls: Send leaves one transaction at one
// relay, Next asks one relay for one transaction, Drain empties the mailbox at
// one relay into a handler.
//
// # In a homeserver
//
// These take the place of a homeserver's own code:
//
//   - Peers.AddRelays says by hand which servers relay for which others, this
//     server included (in Dendrite: P2PAddRelayServers).
//   - Outbox.Enqueue takes the transactions that are to be sent, in place of queues
//     for each destination. Call Outbox.Seen when presence or a request shows that a
//     server is there.
//   - Receiver.Run fetches from this server's relays while the homeserver runs
//     (in Dendrite: PerformRelayServerSync). Call Online when the network is
//     back.
//   - Receiver.Direct stands in the handler of PUT /send, between the check of
//     the signature and the processing.
//
// # Delivery
//
// An Outbox tries for 30 days (OutboxConfig.MaxAge). Delivery is at least once:
// an entry is acknowledged by asking for the next one, so an entry that was being
// handled when the node or the relay went down comes again. Mail that was left at
// several relays comes from each that doesn't know lists, and an Outbox hands over
// directly even mail that relays had.
//
// A Receiver handles each once, whichever way it comes, if its History is kept in
// the store's notes (OpenHistory). There are three exceptions: a crash after a
// transaction was handled and before that is written down, transactions that a full
// History has forgotten, and a retry that a deployed relay has stored twice: it looks
// like two transactions that are alike.
//
// # Errors
//
// Any response of the other server but a success is a *wire.Error, with its
// status, its Matrix error code and when to try again; every other error is a
// failure to reach the server or to understand it. A Caller retries nothing; a
// Sender reports a failure as a *SendError.
package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/wire"
)

// DefaultMaxAnswerBytes is the default of CallerConfig.MaxAnswerBytes: three times
// as much as a relay takes in by default.
const DefaultMaxAnswerBytes = 32 << 20

// maxErrorBytes is how much is read of an answer other than 200.
const maxErrorBytes = 64 << 10

// DefaultTimeout is the default of CallerConfig.Timeout: a large answer over a slow
// link fits.
const DefaultTimeout = 2 * time.Minute

// A CallerConfig says how a Caller calls. Identity is required, and one of Transport and
// Federation.
type CallerConfig struct {
	// Identity is the server in whose name requests are made, and its key.
	Identity fclient.SigningIdentity

	// Transport makes connections from URLs such as matrix://example.org/path,
	// as with fclient.WithTransport.
	Transport http.RoundTripper

	// Addresses reaches relays at the addresses that relay records give for them, when
	// they can't be reached by their names. Default: Transport, if it can do that, as that
	// of package discovery can; else the addresses aren't used.
	Addresses AddressTransport

	// Federation is used if Transport is nil: a homeserver's client. One that is
	// an HTTPDoer, as fclient makes them, becomes a FederationTransport. Of
	// another, such as a stub in a test, SendTransaction,
	// P2PSendTransactionToRelay and P2PGetTransactionFromRelay are called, as
	// deployed homeservers do: nothing waits, mail comes one at a time, and there
	// are no proofs, IDs of transactions, nor fields that gomatrixserverlib
	// doesn't know. To wrap a client of fclient, wrap its DoHTTPRequest.
	Federation fclient.FederationClient

	// Timeout bounds each request, its answer included. Zero: DefaultTimeout.
	// Negative: no limit.
	Timeout time.Duration

	// MaxAnswerBytes bounds an answer that comes through Transport; a longer
	// one is an error. Zero: DefaultMaxAnswerBytes. Negative: no limit.
	MaxAnswerBytes int64
}

// A Caller makes signed requests to relays. It is safe for concurrent use.
type Caller struct {
	config CallerConfig
	client http.Client
	user   spec.UserID
	infos  *infos

	// contacts, if it isn't nil, remembers how requests to relays went.
	contacts *contacts

	// book, if it isn't nil, is told of records that relays have.
	book *book

	// addresses, if it isn't nil, says where a relay is that has the mail of a server, and
	// nameless which relays can't be reached by their names.
	addresses func(about, relay spec.ServerName) []string
	nameless  *backoffs[spec.ServerName]
}

// NewCaller makes a Caller.
func NewCaller(config CallerConfig) (*Caller, error) {
	if config.Transport == nil && config.Federation == nil {
		return nil, errors.New("client: CallerConfig has neither Transport nor Federation")
	}
	user, err := wire.UserAt(config.Identity.ServerName)
	if err != nil {
		return nil, fmt.Errorf("client: CallerConfig.Identity: %w", err)
	}
	if len(config.Identity.PrivateKey) != ed25519.PrivateKeySize {
		return nil, errors.New("client: CallerConfig.Identity has no private key")
	}
	defaults.Bounds(&config.MaxAnswerBytes, DefaultMaxAnswerBytes, math.MaxInt64)
	defaults.Bounds(&config.Timeout, DefaultTimeout, defaults.Forever)
	config.Timeout = min(config.Timeout, defaults.Forever) // the time of an answer that is held is added
	if doer, ok := config.Federation.(HTTPDoer); ok && config.Transport == nil {
		config.Transport = FederationTransport(doer)
	}
	if config.Addresses == nil {
		config.Addresses, _ = config.Transport.(AddressTransport)
	}
	c := &Caller{config: config, user: user, infos: newInfos()}
	c.nameless = newBackoffs[spec.ServerName](Backoff{First: 10 * time.Minute, Most: time.Hour})
	c.client = http.Client{
		Transport: config.Transport,
		// The signature is good for the server it was made for only.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// A Transaction is one on its way to a destination.
type Transaction struct {
	ID          gomatrixserverlib.TransactionID
	Destination spec.ServerName

	// Body is its JSON: pdus, edus, origin, origin_server_ts.
	Body json.RawMessage

	// Proof is set if it is another server's, and passed on: see
	// OutboxConfig.PassOn.
	Proof *wire.Proof
}

// NewTransaction makes a Transaction of gomatrixserverlib's.
func NewTransaction(t gomatrixserverlib.Transaction) (Transaction, error) {
	body, err := json.Marshal(t)
	if err != nil {
		return Transaction{}, fmt.Errorf("client: transaction %s: %w", t.TransactionID, err)
	}
	return Transaction{ID: t.TransactionID, Destination: t.Destination, Body: body}, nil
}

// Send leaves a transaction at a relay. It returns nil once the relay has it
// safely; sending the same again is harmless. One with a Proof is passed on,
// which fails with ErrNotPassedOn at a relay that doesn't know proofs.
func (c *Caller) Send(ctx context.Context, relay spec.ServerName, t Transaction) error {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	err := c.send(ctx, relay, t)
	c.contacts.note(ctx, relay, err)
	return err
}

func (c *Caller) send(ctx context.Context, relay spec.ServerName, t Transaction) error {
	user, err := wire.UserAt(t.Destination)
	if err != nil {
		return fmt.Errorf("client: send: %w: %w", ErrUnsendable, err)
	}
	if !c.isWhole() {
		return c.federated().toRelay(ctx, relay, user, t)
	}
	ctx = c.toward(ctx, t.Destination, relay)
	uri, body := wire.SendRelayURI(t.ID, user), []byte(t.Body)
	if t.Proof != nil {
		body = wire.WithProof(body, *t.Proof)
	}
	request, err := c.sign(http.MethodPut, relay, uri, json.RawMessage(body))
	if err != nil {
		return fmt.Errorf("client: %s: %w", uri, err)
	}
	size := request.ContentLength
	if t.Proof != nil {
		size -= wire.MaxProofBytes // which a relay takes besides
	}
	if err := c.fits(ctx, relay, size); err != nil {
		return fmt.Errorf("client: %s at %s: %w", uri, relay, err)
	}
	answer, err := c.do(ctx, relay, uri, request)
	if err == nil {
		c.book.hint(relay, t.Destination, wire.RelaysSeq(answer))
	}
	if err == nil && t.Proof != nil && !wire.IsProven(answer) {
		return fmt.Errorf("client: %s: %w", relay, ErrNotPassedOn)
	}
	return isAnswer(answer, err)
}

// isAnswer returns err, or an error for a success that no Matrix server sends,
// such as a page that asks to log in. Deployed relays say null.
func isAnswer(body []byte, err error) error {
	if err != nil {
		return err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil {
		return fmt.Errorf("client: %w", errNoAnswer)
	}
	return nil
}

// errNoAnswer says that a success isn't an answer to the request, but a page, perhaps.
var errNoAnswer = errors.New("the answer isn't a JSON object of the right kind")

// ErrNotPassedOn says that a server doesn't know proofs of origin, so that it
// would treat forwarded mail as the forwarder's own, which is of no use to anybody.
var ErrNotPassedOn = errors.New("it doesn't know proofs of origin")

// SendDirect sends a transaction to its destination, as a homeserver does:
// PUT /_matrix/federation/v1/send/{txnID} of the federation API. The destination's
// results for single PDUs are ignored. A transaction with a Proof is passed on to
// the destination as if it were a relay of its own.
func (c *Caller) SendDirect(ctx context.Context, t Transaction) error {
	if t.Proof != nil {
		return c.Send(ctx, t.Destination, t)
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	if !c.isWhole() {
		return c.federated().direct(ctx, t)
	}
	uri := wire.SendURI(t.ID)
	request, err := c.sign(http.MethodPut, t.Destination, uri, t.Body)
	if err != nil {
		return fmt.Errorf("client: %s: %w", uri, err)
	}
	return isAnswer(c.do(ctx, t.Destination, uri, request))
}

// ErrUnsendable says that a request couldn't be made or signed, because of its
// content: newer versions of gomatrixserverlib can't sign JSON with keys that need
// an escape, for one. No server was asked, and trying again makes no sense.
var ErrUnsendable = errors.New("it can't be sent")

// canSend returns an error if no request can be made of a transaction. Signing
// it is the only way to tell.
func (c *Caller) canSend(t Transaction) error {
	user, err := wire.UserAt(t.Destination)
	if err != nil {
		return err
	}
	_, err = c.sign(http.MethodPut, t.Destination, wire.SendRelayURI(t.ID, user), t.Body)
	return err
}

// sign makes a signed request, without a body if content is nil. Its error wraps ErrUnsendable.
func (c *Caller) sign(method string, server spec.ServerName, uri string, content any) (*http.Request, error) {
	signed := fclient.NewFederationRequest(method, c.config.Identity.ServerName, server, uri)
	if content != nil {
		if err := signed.SetContent(content); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnsendable, err)
		}
	}
	id := c.config.Identity
	if err := signed.Sign(id.ServerName, id.KeyID, id.PrivateKey); err != nil {
		return nil, fmt.Errorf("%w: signing it: %w", ErrUnsendable, err)
	}
	request, err := signed.HTTPRequest()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsendable, err)
	}
	return request, nil
}

// do makes a signed request and returns the body of an answer that is a success.
func (c *Caller) do(ctx context.Context, server spec.ServerName, uri string, request *http.Request) ([]byte, error) {
	body, err := c.roundTrip(request.WithContext(ctx), c.config.MaxAnswerBytes)
	if err != nil {
		return nil, fmt.Errorf("client: %s at %s: %w", uri, server, err)
	}
	return body, nil
}

// callAbout makes a request about a server's mail to a relay, and returns an answer that has
// at most that many bytes.
func (c *Caller) callAbout(ctx context.Context, about, relay spec.ServerName, method, uri string, content any, most int64) ([]byte, error) {
	if !c.isWhole() {
		return nil, fmt.Errorf("client: %s at %s: %w", uri, relay, errNeedsTransport)
	}
	request, err := c.sign(method, relay, uri, content)
	if err != nil {
		return nil, fmt.Errorf("client: %s at %s: %w", uri, relay, err)
	}
	answer, err := c.roundTrip(request.WithContext(c.toward(ctx, about, relay)), most)
	if err != nil {
		return nil, fmt.Errorf("client: %s at %s: %w", uri, relay, err)
	}
	return answer, nil
}

// roundTrip makes a request and returns the body of an answer that is a success and has
// at most that many bytes.
func (c *Caller) roundTrip(request *http.Request, most int64) (body []byte, err error) {
	response, err := c.exchange(request)
	if err != nil {
		return nil, unanswered{err}
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	limit := min(most, math.MaxInt64-1)
	if response.StatusCode != http.StatusOK {
		limit = maxErrorBytes
	}
	content := io.Reader(response.Body)
	if response.Header.Get("Content-Encoding") == "gzip" { // else the transport has seen to it
		if content, err = gzip.NewReader(response.Body); err != nil {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
	}
	var read bytes.Buffer
	n, err := read.ReadFrom(io.LimitReader(content, limit+1))
	if response.StatusCode != http.StatusOK {
		return nil, wire.ParseError(response.StatusCode, response.Header, read.Bytes())
	}
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if n > limit {
		return nil, fmt.Errorf("%w than %d bytes", errTooLong, limit)
	}
	return read.Bytes(), nil
}

// unanswered is an error of a request to which no answer came.
type unanswered struct{ error }

func (u unanswered) Unwrap() error { return u.error }

// errTooLong says that an answer was longer than allowed.
var errTooLong = errors.New("the answer is longer")

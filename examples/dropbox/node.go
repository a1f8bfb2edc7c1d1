package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store/sqlite"
	"github.com/matrixrelay/relay/wire"
)

// A node is a homeserver with one user in a P2P network: its name is its public
// key in hex, so everybody can check its signatures without asking anyone.
type node struct {
	fclient.SigningIdentity
	*client.Node
	name, user string // of its user: the first part, and the whole ID
	address    string // where others reach it

	mail    *sqlite.Store  // all that the Node keeps
	answers *answers       // of relays, to all of its requests
	caller  *client.Caller // for requests that a Node doesn't make
	running chan error     // the result of Node.Run
	closers []io.Closer    // in the order of opening

	inbox    inbox
	sent     []gomatrixserverlib.Transaction
	told     chan client.Event // by the outbox
	arrivals chan arrival      // directly from other nodes
	rejected chan rejection    // by the receiver
	failed   chan error        // by the inbox
}

// The story is short, and so are the times that others wait between attempts:
// at relays that fail, and at nodes that do.
var (
	relayBackoff = client.Backoff{First: 5 * time.Millisecond, Most: 5 * time.Millisecond}
	nodeBackoff  = client.Backoff{First: 200 * time.Millisecond, Most: 200 * time.Millisecond}
)

// answerTimeout is far more than an answer takes on one machine.
const answerTimeout = 20 * time.Second

// enough is more events and arrivals than there are.
const enough = 100

// A rejection is mail from a relay that isn't proven to be its origin's.
type rejection struct {
	client.Received
	why error
}

// newNode makes a node with one database.
func newNode(ctx context.Context, name, database string, roads *network) (*node, error) {
	n := &node{
		name: name, answers: newAnswers(roads), told: make(chan client.Event, enough), arrivals: make(chan arrival, enough),
		rejected: make(chan rejection, enough), failed: make(chan error, 1),
	}
	if err := n.start(ctx, database); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *node) start(ctx context.Context, database string) (err error) {
	if n.SigningIdentity, err = newIdentity(); err != nil {
		return err
	}
	n.user = "@" + n.name + ":" + string(n.ServerName)
	if n.mail, err = sqlite.Open(database, sqlite.Options{}); err != nil {
		return err
	}
	n.closers = append(n.closers, n.mail)
	if n.caller, err = client.NewCaller(client.CallerConfig{Identity: n.SigningIdentity, Transport: n.answers, Timeout: answerTimeout}); err != nil {
		return err
	}
	return n.run(ctx, n.config())
}

// config is that of the node's Node. It trusts no relay: the origin must have signed the
// mail that it gives. It fetches mail when it comes online, and again after a failure.
func (n *node) config() client.NodeConfig {
	return client.NodeConfig{
		Identity: n.SigningIdentity, Transport: n.answers, Store: n.mail, Logger: slog.New(slog.DiscardHandler),
		Keys: wire.HexKeys{}, Handle: n.handle,
		Caller: client.CallerConfig{Timeout: answerTimeout},
		Sender: client.SenderConfig{RelayBackoff: relayBackoff},
		Outbox: client.OutboxConfig{Backoff: nodeBackoff, Notify: n.note},
		Receiver: client.ReceiverConfig{
			RequireProof: true, PollInterval: -1, Wait: -1, Backoff: nodeBackoff,
			Rejected: func(_ context.Context, got client.Received, why error) { n.rejected <- rejection{got, why} },
		},
	}
}

// run opens the Node and has it send and fetch.
func (n *node) run(ctx context.Context, config client.NodeConfig) (err error) {
	if n.Node, err = client.OpenNode(ctx, config); err != nil {
		return err
	}
	running := make(chan error, 1)
	n.running = running
	go func() { running <- n.Run(context.WithoutCancel(ctx)) }() // ends with stop
	return nil
}

// stop ends the Node, if there is one.
func (n *node) stop() error {
	if n.Node == nil {
		return nil
	}
	err := errors.Join(n.Close(), <-n.running)
	n.Node = nil
	return err
}

// note hears the news of the node's mail. That further relays took it
// is no news for the story.
func (n *node) note(e client.Event) {
	if e.Result != client.ResultRelayed || e.At == 1 {
		e.TransactionID = known(e.TransactionID)
		n.told <- e
	}
}

// record stands for the ID of the transaction by which a Node tells others of its record.
const record gomatrixserverlib.TransactionID = "record"

func known(id gomatrixserverlib.TransactionID) gomatrixserverlib.TransactionID {
	if strings.HasPrefix(string(id), "relays-") {
		return record
	}
	return id
}

// handle takes mail that a relay had. Mail that comes before other mail comes again; any
// other failure is the end of the story.
func (n *node) handle(ctx context.Context, got client.Received) error {
	err := n.inbox.take(ctx, got.Relay, got.Body)
	if err != nil && !errors.Is(err, errEarly) {
		select {
		case n.failed <- err:
		default: // there is one already
		}
	}
	return err
}

// close closes everything that is open, the last first.
func (n *node) close() error {
	err := n.stop()
	for len(n.closers) > 0 {
		last := len(n.closers) - 1
		err = errors.Join(err, n.closers[last].Close())
		n.closers = n.closers[:last]
	}
	return err
}

func newIdentity() (fclient.SigningIdentity, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return fclient.SigningIdentity{}, err
	}
	return wire.HexIdentity(key), nil
}

package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
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
	name, user string // of its user: the first part, and the whole ID

	mail     *sqlite.Store // its outbox, and the notes of the other parts
	receipts *receipts
	caller   *client.Caller
	peers    *client.Peers
	sender   *client.Sender
	outbox   *client.Outbox
	receiver *client.Receiver
	closers  []io.Closer // in the order of opening

	inbox    inbox
	sent     []gomatrixserverlib.Transaction
	told     chan client.Event // by the outbox
	arrivals chan arrival      // directly from other nodes
	rejected chan rejection    // by the receiver
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
	n := &node{name: name, told: make(chan client.Event, enough), arrivals: make(chan arrival, enough), rejected: make(chan rejection, enough)}
	if err := n.start(ctx, database, roads); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *node) start(ctx context.Context, database string, roads *network) (err error) {
	if n.SigningIdentity, err = newIdentity(); err != nil {
		return err
	}
	n.user = "@" + n.name + ":" + string(n.ServerName)
	if n.mail, err = sqlite.Open(database, sqlite.Options{}); err != nil {
		return err
	}
	n.closers = append(n.closers, n.mail)
	n.receipts = newReceipts(roads)
	if n.caller, err = client.NewCaller(client.CallerConfig{Identity: n.SigningIdentity, Transport: n.receipts, Timeout: answerTimeout}); err != nil {
		return err
	}
	if n.peers, err = client.OpenPeers(ctx, n.mail); err != nil {
		return err
	}
	if err := n.openOutbox(ctx); err != nil {
		return err
	}
	history, err := client.OpenHistory(ctx, n.mail, 0)
	if err != nil {
		return err
	}
	return n.receiveWith(n.receiving(history))
}

// openOutbox makes the sending side.
func (n *node) openOutbox(ctx context.Context) (err error) {
	if n.sender, err = client.NewSender(client.SenderConfig{Caller: n.caller, Peers: n.peers, RelayBackoff: relayBackoff}); err != nil {
		return err
	}
	n.closers = append(n.closers, n.sender)
	n.outbox, err = client.OpenOutbox(ctx, client.OutboxConfig{
		Sender: n.sender, Store: n.mail, Backoff: nodeBackoff,
		Notify: n.note,
	})
	if err == nil {
		n.closers = append(n.closers, n.outbox)
	}
	return err
}

// note hears the news of the node's mail. That further relays took it
// is no news for the story.
func (n *node) note(e client.Event) {
	if e.Result != client.ResultRelayed || e.At == 1 {
		n.told <- e
	}
}

// receiving is how a node receives. It remembers the mail that was handled, and
// trusts no relay: the origin must have signed the mail that it gives.
func (n *node) receiving(history *client.History) client.ReceiverConfig {
	return client.ReceiverConfig{
		Caller: n.caller, Peers: n.peers, History: history, Logger: slog.New(slog.DiscardHandler),
		Keys: wire.HexKeys{}, RequireProof: true,
		Rejected: func(_ context.Context, got client.Received, why error) { n.rejected <- rejection{got, why} },
		Handle: func(ctx context.Context, got client.Received) error {
			return n.inbox.take(ctx, got.Relay, got.Body)
		},
	}
}

// receiveWith makes the receiving side.
func (n *node) receiveWith(config client.ReceiverConfig) (err error) {
	n.receiver, err = client.NewReceiver(config)
	return err
}

// close closes everything that is open, the last first.
func (n *node) close() (err error) {
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

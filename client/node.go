package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// NodeConfig of a Node. Identity, Store and Handle are required, and Transport
// or Caller.Federation.
type NodeConfig struct {
	// Identity is this server and its key. Transport reaches other servers: see
	// Config.
	Identity  fclient.SigningIdentity
	Transport http.RoundTripper

	// Store keeps the transactions to be sent, those that were handled, and the
	// relays of each server.
	// It must be a store.Notes, too, as all stores of this project are. It may be
	// that of a relay, and serves one Node. The embedder closes it, after the
	// Node.
	Store store.Store

	// Keys checks proofs of origin, and Handle processes a transaction that a
	// relay held: see ReceiverConfig.
	Keys   gomatrixserverlib.JSONVerifier
	Handle func(ctx context.Context, received Received) error

	// Offline says that there is no network until Online is called.
	Offline bool

	// Logger gets warnings for the operator. Default: slog.Default().
	Logger *slog.Logger

	// Caller, Sender, Outbox and Receiver have the other settings of the parts, such
	// as Outbox.Notify, Outbox.Source and Receiver.RequireProof. Leave out the
	// settings that the fields above have, and those by which one part is given to
	// another.
	Caller   CallerConfig
	Sender   SenderConfig
	Outbox   OutboxConfig
	Receiver ReceiverConfig
}

// A Node is a server that sends through relays and fetches from them: all that
// most homeservers need of this package. It is made of the other types, on one
// store. By itself it asks nobody before Run is called, nor while it is offline; methods
// that ask relays, such as Announce and Mailbox, do so whenever they are called. It is safe
// for concurrent use.
type Node struct {
	self     spec.ServerName
	store    store.Store
	caller   *Caller
	peers    *Peers
	sender   *Sender
	outbox   *Outbox
	receiver *Receiver
	policies *policies

	book      *book
	announcer *announcer
	scout     scout
	logger    *slog.Logger

	stop   context.Context // ends with Close
	cancel context.CancelFunc

	mu        sync.Mutex
	closed    bool
	runs      bool
	running   sync.WaitGroup // Run
	online    bool
	endPeriod context.CancelFunc // in which it is online
	switched  chan struct{}      // closed when online changes
}

// OpenNode makes a Node, which goes on with the transactions in the store. A note in the
// store that can't be read is logged and set aside, below the key damaged/.
func OpenNode(ctx context.Context, config NodeConfig) (*Node, error) {
	notes, err := config.check()
	if err != nil {
		return nil, err
	}
	n := &Node{
		self: config.Identity.ServerName, store: config.Store,
		online: !config.Offline, endPeriod: func() {}, switched: make(chan struct{}),
	}
	if err := n.open(ctx, config, notes); err != nil {
		return nil, err
	}
	n.stop, n.cancel = context.WithCancel(context.Background())
	return n, nil
}

// check says why a configuration can't be used.
func (c *NodeConfig) check() (store.Notes, error) {
	if c.Store == nil || c.Handle == nil {
		return nil, errors.New("client: NodeConfig needs Store and Handle")
	}
	notes, ok := c.Store.(store.Notes)
	if !ok {
		return nil, errors.New("client: NodeConfig.Store is no store.Notes")
	}
	if c.Outbox.PassOn != nil {
		return nil, errors.New("client: mail that a relay passes on needs an Outbox besides the Node")
	}
	caller, outbox, receiver := &c.Caller, &c.Outbox, &c.Receiver
	for name, set := range map[string]bool{
		"Caller.Identity": caller.Identity.ServerName != "", "Caller.Transport": caller.Transport != nil,
		"Sender.Caller": c.Sender.Caller != nil, "Sender.Peers": c.Sender.Peers != nil,
		"Outbox.Sender": outbox.Sender != nil, "Outbox.Store": outbox.Store != nil,
		"Receiver.Caller": receiver.Caller != nil, "Receiver.Peers": receiver.Peers != nil,
		"Receiver.Keys": receiver.Keys != nil, "Receiver.Handle": receiver.Handle != nil,
	} {
		if set {
			return nil, fmt.Errorf("client: NodeConfig.%s is for the Node to set", name)
		}
	}
	return notes, nil
}

// open makes the parts, each with those before it that it needs.
func (n *Node) open(ctx context.Context, config NodeConfig, notes store.Notes) (err error) {
	caller, sender, outbox, receiver := config.Caller, config.Sender, config.Outbox, config.Receiver
	for _, logger := range []**slog.Logger{&sender.Logger, &outbox.Logger, &receiver.Logger} {
		if *logger == nil {
			*logger = config.Logger
		}
	}
	caller.Identity, caller.Transport = config.Identity, config.Transport
	if n.caller, err = NewCaller(caller); err != nil {
		return err
	}
	n.caller.contacts = newContacts()
	if n.peers, err = openPeers(ctx, notes, cmp.Or(config.Logger, slog.Default())); err != nil {
		return err
	}
	if n.policies, err = openPolicies(ctx, n.caller, n.peers, notes, config.Logger); err != nil {
		return err
	}
	if err := n.openRecords(ctx, config, notes); err != nil {
		return err
	}
	if receiver.History == nil {
		if receiver.History, err = OpenHistory(ctx, notes, 0); err != nil {
			return err
		}
	}
	receiver.Caller, receiver.Peers, receiver.Keys = n.caller, n.peers, config.Keys
	receiver.Handle = func(ctx context.Context, received Received) error {
		n.readRecord(ctx, received.Origin, received.Body)
		return config.Handle(ctx, received)
	}
	if n.receiver, err = NewReceiver(receiver); err != nil {
		return err
	}
	sender.Caller, sender.Peers = n.caller, n.peers
	if n.sender, err = NewSender(sender); err != nil {
		return err
	}
	n.sender.book = n.book
	outbox.Sender, outbox.Store = n.sender, config.Store
	if n.outbox, err = loadOutbox(ctx, outbox); err != nil {
		return errors.Join(err, n.sender.Close())
	}
	return nil
}

// Enqueue takes a transaction to be sent: see Outbox.Enqueue. It does so offline,
// too.
func (n *Node) Enqueue(ctx context.Context, t Transaction) error {
	if err := n.outbox.Enqueue(ctx, t); err != nil {
		return err
	}
	n.writesTo(ctx, t.Destination)
	return nil
}

// Stored says that NodeConfig.Outbox.Source has a new transaction for a
// destination.
func (n *Node) Stored(destination spec.ServerName) { n.outbox.Stored(destination) }

// Seen says that a server is online, as its presence or a request of it shows:
// transactions that wait for it are tried at once. It fits relay.Config.Asked.
func (n *Node) Seen(server spec.ServerName) { n.outbox.Seen(server) }

// Direct runs handle for a transaction that came from its origin itself, unless
// a relay already had it: see Receiver.Direct. It shows that the origin is
// online, as Seen does.
func (n *Node) Direct(ctx context.Context, origin spec.ServerName, id gomatrixserverlib.TransactionID, body []byte, handle func(context.Context) error) (handled bool, err error) {
	n.Seen(origin)
	n.readRecord(ctx, origin, body)
	return n.receiver.Direct(ctx, origin, id, body, handle)
}

// SetRelays makes these servers, and no others, known as relays of a server by hand. The
// Node fetches from those of its own server, and leaves at those of others the
// transactions for which these can't be reached. Relays that a server names in its
// record are used besides: see Announce and OnlyByHand. An error means that the change
// isn't kept.
func (n *Node) SetRelays(ctx context.Context, server spec.ServerName, relays ...spec.ServerName) error {
	return n.peers.SetRelays(ctx, server, relays...)
}

// Relays returns the relays of a server, in order. The slice is the caller's.
func (n *Node) Relays(server spec.ServerName) []spec.ServerName { return n.peers.Relays(server) }

// Close ends Run and waits for it. Queued transactions stay in the store, which
// Close doesn't close. It may be called more than once.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	n.running.Wait()
	return errors.Join(n.outbox.Close(), n.sender.Close())
}

// Package dendrite puts a relay and a client.Node into Dendrite, or a homeserver that
// is made like it, in place of its own relayapi and of the part that asks relays:
//
//	mounted, err := dendrite.Start(dendrite.Config{
//		Router: routers.Federation, Process: processCtx, Keys: keyRing, Client: federation,
//		Identity: *identity, Store: mail, Transact: transact, RelaysOf: relaysOf, WakeUp: wakeUp,
//	})
//
// Dendrite's own queues go on sending: they know relays already. The package imports
// no Dendrite; the parts of Dendrite that it needs are the fields of Config. The three
// functions are, in Dendrite's tree:
//
//	rooms := internal.NewMutexByRoom()
//	transact := func(ctx context.Context, t gomatrixserverlib.Transaction) (*fclient.RespSend, *util.JSONResponse) {
//		request := internal.NewTxnReq(rsAPI, userAPI, cfg.Global.ServerName, keyRing, rooms, producer,
//			cfg.Global.Presence.EnableInbound, t.PDUs, t.EDUs, t.Origin, t.TransactionID, t.Destination)
//		return request.ProcessTransaction(ctx)
//	}
//	relaysOf := func(ctx context.Context, server spec.ServerName) ([]spec.ServerName, error) {
//		var known api.P2PQueryRelayServersResponse
//		err := fsAPI.P2PQueryRelayServers(ctx, &api.P2PQueryRelayServersRequest{Server: server}, &known)
//		return known.RelayServers, err
//	}
//	wakeUp := func(server spec.ServerName) { fsAPI.MarkServersAlive([]spec.ServerName{server}) }
//
// Call Node.Online where Dendrite called RelayServerRetriever.StartSync, ReadRelays
// after a change of its table of relays, and ImportQueue before Start, for the mail that
// Dendrite's own relay still has.
package dendrite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
)

// A Process is Dendrite's *process.ProcessContext.
type Process interface {
	// Context ends when the homeserver is to stop.
	Context() context.Context

	// ComponentStarted and ComponentFinished are for a homeserver that waits for its
	// components before it ends.
	ComponentStarted()
	ComponentFinished()
}

// Config of a Relay. All fields but IsLocalServerName, RelaysOf, WakeUp and those
// behind them are required.
type Config struct {
	// Router is the homeserver's federation router, of /_matrix/federation, with
	// SkipClean and UseEncodedPath. Start adds the routes of the relay.
	Router *mux.Router

	// Process says how long all of it runs.
	Process Process

	// Identity is this server and its key, Keys the key ring, Client that which
	// Dendrite has for federation. Servers of P2P networks, whose name is their key,
	// are checked without Keys.
	Identity fclient.SigningIdentity
	Keys     gomatrixserverlib.JSONVerifier
	Client   fclient.FederationClient

	// Store keeps mail, for the relay and the Node. The embedder closes it, after
	// the components of Process have finished.
	Store store.Store

	// Transact has the homeserver process a transaction, and returns the same as its
	// PUT /send would: a result for each PDU, or why it took none. A response of 500
	// or above means that the transaction is to come again.
	Transact func(ctx context.Context, t gomatrixserverlib.Transaction) (*fclient.RespSend, *util.JSONResponse)

	// IsLocalServerName says which other names this server goes by.
	IsLocalServerName func(spec.ServerName) bool

	// RelaysOf looks up the relays of a server; those of this server are asked for
	// mail. Without it, set them with Node.SetRelays.
	RelaysOf func(ctx context.Context, server spec.ServerName) ([]spec.ServerName, error)

	// WakeUp is told of a server that asks for its mail here, and so is online, at
	// each such request. It may be called by many goroutines at once.
	WakeUp func(server spec.ServerName)

	// RelayingEnabled has this server be a relay from the start: see
	// Relay.SetRelayingEnabled.
	RelayingEnabled bool

	// Logger gets the lines that an operator should know of. Default: logrus's standard
	// logger.
	Logger *logrus.Entry

	// Registerer gets the metrics of the relay, named relay_*. Nil: none.
	Registerer prometheus.Registerer

	// Adjust, if it isn't nil, may change all other settings, which stand at their
	// defaults: limits, say, or Receiver.RequireProof, or Outbox.Source.
	Adjust func(*relay.Config, *client.NodeConfig)
}

// A Relay is a relay that is mounted, and the Node of the same server. Make one with
// Start. It is safe for concurrent use.
type Relay struct {
	Server *relay.Server
	Node   *client.Node

	config Config
}

// Start mounts a relay and has a Node run, until the process ends. If it fails,
// nothing runs and nothing is mounted.
func Start(config Config) (*Relay, error) {
	if config.Router == nil || config.Process == nil || config.Transact == nil || config.Store == nil {
		return nil, errors.New("dendrite: Config needs Router, Process, Transact and Store")
	}
	if config.Logger == nil {
		config.Logger = logrus.NewEntry(logrus.StandardLogger())
	}
	r := &Relay{config: config}
	if err := r.open(config.Process.Context()); err != nil {
		return nil, fmt.Errorf("dendrite: %w", err)
	}
	r.mount()
	config.Process.ComponentStarted()
	go r.run()
	return r, nil
}

// open makes the Node and the relay.
func (r *Relay) open(ctx context.Context) (err error) {
	keys := relay.HexKeys{Others: r.config.Keys}
	logger := slog.New(logHandler{entry: r.config.Logger})
	atNode := client.NodeConfig{
		Identity: r.config.Identity, Caller: client.CallerConfig{Federation: r.config.Client},
		Store: r.config.Store, Keys: keys, Handle: r.received, Logger: logger,
	}
	atRelay := relay.Config{
		ServerName: r.config.Identity.ServerName, IsLocalServerName: r.config.IsLocalServerName,
		Keys: keys, Store: r.config.Store, Disabled: !r.config.RelayingEnabled,
		Asked: r.asked, Deliver: r.delivered, Logger: logger, Registerer: r.config.Registerer,
	}
	if r.config.Adjust != nil {
		r.config.Adjust(&atRelay, &atNode)
	}
	if r.Node, err = client.OpenNode(ctx, atNode); err != nil {
		return err
	}
	if r.Server, err = relay.New(atRelay); err != nil {
		return errors.Join(err, r.Node.Close())
	}
	if err = r.ReadRelays(ctx); err != nil {
		return errors.Join(err, r.Server.Close(), r.Node.Close())
	}
	return nil
}

// run lasts as long as the process.
func (r *Relay) run() {
	defer r.config.Process.ComponentFinished()
	ctx := r.config.Process.Context()
	if err := r.Node.Run(ctx); err != nil {
		r.config.Logger.WithError(err).Error("Relay mail is neither sent nor fetched until the next start")
	}
	<-ctx.Done()
	if err := errors.Join(r.Server.Close(), r.Node.Close()); err != nil {
		r.config.Logger.WithError(err).Error("Closing the relay failed")
	}
}

// ReadRelays looks up with Config.RelaysOf whom this server asks for mail. Call it
// when that has changed.
func (r *Relay) ReadRelays(ctx context.Context) error {
	if r.config.RelaysOf == nil {
		return nil
	}
	self := r.config.Identity.ServerName
	relays, err := r.config.RelaysOf(ctx, self)
	if err != nil {
		return fmt.Errorf("the relays of this server: %w", err)
	}
	return r.Node.SetRelays(ctx, self, relays...)
}

// SetRelayingEnabled says whether this server is a relay. While it isn't, others get
// 404, and the mail that they left here is kept. The Node goes on.
func (r *Relay) SetRelayingEnabled(enabled bool) { r.Server.SetEnabled(enabled) }

// RelayingEnabled reports whether this server is a relay.
func (r *Relay) RelayingEnabled() bool { return r.Server.Enabled() }

// asked is told of a server that asks for its mail.
func (r *Relay) asked(server spec.ServerName) {
	r.Node.Seen(server)
	if r.config.WakeUp != nil {
		r.config.WakeUp(server)
	}
}

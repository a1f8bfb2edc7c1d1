package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/appservice"
	"github.com/matrix-org/dendrite/cmd/dendrite-demo-yggdrasil/signing"
	"github.com/matrix-org/dendrite/federationapi"
	"github.com/matrix-org/dendrite/federationapi/api"
	"github.com/matrix-org/dendrite/internal/caching"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/roomserver"
	"github.com/matrix-org/dendrite/setup"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/matrix-org/dendrite/userapi"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// options of a server: see the flags.
type options struct {
	dir, seed, network             string
	theirs, relaying, requireProof bool
	relays                         map[spec.ServerName][]spec.ServerName
}

// A node is a whole Dendrite.
type node struct {
	options  options
	config   *config.Dendrite
	process  *process.ProcessContext
	client   fclient.FederationClient
	routers  httputil.Routers
	nats     jetstream.NATSInstance
	cm       *sqlutil.Connections
	monolith setup.Monolith
	web      *http.Server

	endRelay func() error
}

// start starts a server. Its process ends it.
func start(o options) (*node, error) {
	n := &node{options: o, config: configOf(o), process: process.NewProcessContext(), routers: httputil.NewRouters()}
	n.endRelay = func() error { return nil }
	if err := errors.Join(os.MkdirAll(o.dir, 0o700), os.MkdirAll(o.network, 0o700)); err != nil {
		return nil, err
	}
	transport := network(o.network).transport()
	n.client = fclient.NewFederationClient(n.config.Global.SigningIdentities(),
		fclient.WithTransport(transport), fclient.WithTimeout(5*time.Minute), fclient.WithSkipVerify(true))
	n.assemble(transport)
	if err := n.setRelays(); err != nil {
		return nil, err
	}
	startRelay := n.startOurs
	if o.theirs {
		startRelay = n.startTheirs
	}
	if err := startRelay(); err != nil {
		return nil, err
	}
	return n, n.serve()
}

// configOf is the configuration that Dendrite's programs for P2P networks set. It lets
// clients register without being asked anything.
func configOf(o options) *config.Dendrite {
	c := &config.Dendrite{}
	c.Defaults(config.DefaultOpts{Generate: true})
	c.Global.SigningIdentity = identityOf(o.seed)
	c.Global.JetStream.StoragePath = config.Path(filepath.Join(o.dir, "jetstream"))
	for name, database := range map[string]*config.DatabaseOptions{
		"account": &c.UserAPI.AccountDatabase, "media": &c.MediaAPI.Database, "sync": &c.SyncAPI.Database,
		"rooms": &c.RoomServer.Database, "keys": &c.KeyServer.Database, "federation": &c.FederationAPI.Database,
		"relay": &c.RelayAPI.Database, "mscs": &c.MSCs.Database,
	} {
		database.ConnectionString = config.DataSource("file:" + filepath.Join(o.dir, name+".db"))
	}
	c.FederationAPI.KeyPerspectives = nil
	c.FederationAPI.EnableRelays = true
	c.FederationAPI.P2PFederationRetriesUntilAssumedOffline = 0 // after the first failure
	c.ClientAPI.RegistrationDisabled = false
	c.ClientAPI.OpenRegistrationWithoutVerificationEnabled = true
	c.ClientAPI.RateLimiting.Enabled = false
	c.MediaAPI.AbsBasePath = config.Path(filepath.Join(o.dir, "media"))
	c.SyncAPI.Fulltext.Enabled = false
	if err := c.Derive(); err != nil {
		panic(err) // it reads nothing
	}
	return c
}

// assemble puts the parts of Dendrite together, as its programs do.
func (n *node) assemble(transport http.RoundTripper) {
	keyRing := (&signing.YggdrasilKeys{}).KeyRing()
	n.cm = sqlutil.NewConnectionManager(n.process, n.config.Global.DatabaseOptions)
	caches := caching.NewRistrettoCache(n.config.Global.Cache.EstimatedMaxSize, n.config.Global.Cache.MaxAge, caching.DisableMetrics)
	rooms := roomserver.NewInternalAPI(n.process, n.config, n.cm, &n.nats, caches, caching.DisableMetrics)
	federation := federationapi.NewInternalAPI(n.process, n.config, n.cm, &n.nats, n.client, rooms, caches, keyRing, true)
	rooms.SetFederationAPI(federation, keyRing)
	users := userapi.NewInternalAPI(n.process, n.config, n.cm, &n.nats, rooms, n.client, caching.DisableMetrics, federation.IsBlacklistedOrBackingOff)
	services := appservice.NewInternalAPI(n.process, n.config, &n.nats, users, rooms)
	rooms.SetAppserviceAPI(services)
	rooms.SetUserAPI(users)
	n.monolith = setup.Monolith{
		Config: n.config, KeyRing: keyRing, FedClient: n.client, Client: fclient.NewClient(fclient.WithTransport(transport)),
		AppserviceAPI: services, FederationAPI: federation, RoomserverAPI: rooms, UserAPI: users,
	}
	n.monolith.AddAllPublicRoutes(n.process, n.config, n.routers, n.cm, &n.nats, caches, caching.DisableMetrics)
}

// setRelays fills Dendrite's table of relays.
func (n *node) setRelays() error {
	for server, relays := range n.options.relays {
		err := n.monolith.FederationAPI.P2PAddRelayServers(n.process.Context(),
			&api.P2PAddRelayServersRequest{Server: server, RelayServers: relays}, &api.P2PAddRelayServersResponse{})
		if err != nil {
			return fmt.Errorf("the relays of %s: %w", server, err)
		}
	}
	return nil
}

// serve begins to answer.
func (n *node) serve() error {
	root := mux.NewRouter().SkipClean(true).UseEncodedPath()
	root.PathPrefix(httputil.PublicClientPathPrefix).Handler(n.routers.Client)
	root.PathPrefix(httputil.PublicFederationPathPrefix).Handler(n.routers.Federation)
	listener, err := network(n.options.network).listen(n.config.Global.ServerName)
	if err != nil {
		return err
	}
	n.web = &http.Server{Handler: root}
	go func() { _ = n.web.Serve(listener) }() // until close
	return nil
}

// close ends the parts that the components of the process leave. They have finished.
func (n *node) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(n.web.Shutdown(ctx), n.endRelay())
}

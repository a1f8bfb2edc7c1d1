package main

import (
	"github.com/matrix-org/dendrite/cmd/dendrite-demo-pinecone/relay"
	"github.com/matrix-org/dendrite/internal/caching"
	"github.com/matrix-org/dendrite/relayapi"
	"github.com/sirupsen/logrus"
)

// startTheirs has the relay and the retriever of Dendrite itself in the server, as its
// program for Pinecone has them.
func (n *node) startTheirs() error {
	caches := caching.NewRistrettoCache(n.config.Global.Cache.EstimatedMaxSize, n.config.Global.Cache.MaxAge, caching.DisableMetrics)
	relays := relayapi.NewRelayInternalAPI(n.config, n.cm, n.client, n.monolith.RoomserverAPI, n.monolith.KeyRing, n.producer(), n.options.relaying, caches)
	relayapi.AddPublicRoutes(n.routers, n.config, n.monolith.KeyRing, relays)
	retriever := relay.NewRelayServerRetriever(n.process.Context(), n.config.Global.ServerName, n.monolith.FederationAPI, relays, make(chan bool))
	retriever.InitializeRelayServers(logrus.NewEntry(logrus.StandardLogger()))
	retriever.StartSync()
	return nil
}

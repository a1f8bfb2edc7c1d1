// Package dendrite shows how a homeserver that routes as Dendrite does mounts
// a relay: a federation router of gorilla/mux, to which the relay is two
// routes more.
package dendrite

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/matrixrelay/relay/wire"
)

// FederationPrefix is where Dendrite has its federation router.
const FederationPrefix = "/_matrix/federation"

// NewFederationRouter makes the routers that Dendrite has: the one of the
// whole server, and below FederationPrefix the one of federation. Both leave
// the path as the sender escaped it, and the relay needs that: X-Matrix signs
// the path, and user IDs may hold an escaped slash.
func NewFederationRouter() (root, federation *mux.Router) {
	root = mux.NewRouter().SkipClean(true).UseEncodedPath()
	federation = root.PathPrefix(FederationPrefix).Subrouter().SkipClean(true).UseEncodedPath()
	return root, federation
}

// Mount adds the routes of a relay to a federation router, for all methods:
// the relay says itself which it doesn't have.
func Mount(federation *mux.Router, relay http.Handler) {
	for _, endpoint := range []wire.Endpoint{wire.SendRelay, wire.RelayTxn} {
		federation.PathPrefix("/v1/" + string(endpoint) + "/").Handler(relay)
	}
}

package dendrite

import (
	"net/http"
	"strings"

	"github.com/gorilla/mux"
	"github.com/matrix-org/util"

	"github.com/matrixrelay/relay/wire"
)

// SendRoute is the name that Dendrite gives its route of PUT /send.
const SendRoute = "Send"

// mount adds the routes of the relay, and has those that the homeserver sends directly
// pass Direct.
func (r *Relay) mount() {
	Mount(r.config.Router, r.Server)
	if send := r.config.Router.Get(SendRoute); send != nil {
		send.Handler(r.Direct(send.GetHandler()))
	}
}

// Mount adds the routes of a relay to a federation router, for programs that need
// nothing else of this package. OPTIONS is answered as Dendrite does; the relay says
// itself which other methods it doesn't have.
func Mount(federation *mux.Router, relay http.Handler) {
	serve := util.WithCORSOptions(relay.ServeHTTP)
	for _, endpoint := range []wire.Endpoint{wire.SendRelay, wire.RelayTxn} {
		federation.PathPrefix("/v1/" + string(endpoint) + "/").HandlerFunc(serve)
	}
	federation.PathPrefix(strings.TrimPrefix(wire.Unstable, "/_matrix/federation")).HandlerFunc(serve)
}

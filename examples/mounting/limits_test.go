package mounting_test

import (
	"net/http"
	"testing"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/dendrite"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// TestWhatRoutersRedirect has the one thing that a mounting can't do. A router that cleans
// paths answers some of them with a redirect, which breaks the request before
// the relay sees it: net/http's ServeMux those with a segment . or .. in them
// as they were sent, gorilla/mux without SkipClean and UseEncodedPath those
// with // or /../ in a user ID, however they are escaped. The relay never sees
// such a request, so nothing is taken or given away. No deployed node sends
// one: transaction IDs are of [0-9A-Za-z_-], and user IDs are made up.
func TestWhatRoutersRedirect(t *testing.T) {
	serveMux := func(server http.Handler) http.Handler {
		router := http.NewServeMux()
		router.Handle("/", server)
		return router
	}
	cleaningMux := func(server http.Handler) http.Handler {
		router := mux.NewRouter()
		dendrite.Mount(router.PathPrefix(federationPrefix).Subrouter(), server)
		return router
	}
	dendritesMux := func(server http.Handler) http.Handler {
		root, federation := newFederationRouter()
		dendrite.Mount(federation, server)
		return root
	}
	b := relaytest.NewNode("b").ServerName
	dots := prefixV1 + "/send_relay/../" + string("@user:"+b)
	slashes := wire.SendRelayURI("t", oddUser(t, "a//b", b))
	climbing := wire.SendRelayURI("t", oddUser(t, "a/../b", b))
	plain := wire.SendRelayURI("t", oddUser(t, "a/b", b))
	for _, test := range []struct {
		name       string
		mount      func(http.Handler) http.Handler
		uri        string
		redirected bool
	}{
		{"ServeMux, dots", serveMux, dots, true},
		{"ServeMux, slashes", serveMux, slashes, false},
		{"ServeMux, climbing", serveMux, climbing, false},
		{"gorilla/mux by default, dots", cleaningMux, dots, true},
		{"gorilla/mux by default, slashes", cleaningMux, slashes, true},
		{"gorilla/mux by default, climbing", cleaningMux, climbing, true},
		{"gorilla/mux by default, plain", cleaningMux, plain, false},
		{"gorilla/mux as Dendrite has it, dots", dendritesMux, dots, false},
		{"gorilla/mux as Dendrite has it, slashes", dendritesMux, slashes, false},
		{"gorilla/mux as Dendrite has it, climbing", dendritesMux, climbing, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t, test.mount)
			s.requireStored(t, test.uri, !test.redirected, b)
		})
	}
}

// requireStored puts a transaction for a server, which is to be stored or to be
// answered with a redirect.
func (s *site) requireStored(t *testing.T, uri string, stored bool, to spec.ServerName) {
	t.Helper()
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	request, err := a.Request(http.MethodPut, relayName, uri, a.Transaction(to, "t", 1, 300))
	require.NoError(t, err)
	response, body := s.do(t, request)
	if stored {
		require.Equal(t, http.StatusOK, response.StatusCode, body)
	} else {
		require.Equal(t, 3, response.StatusCode/100, body)
	}
	got, err := b.Federation(s.network).P2PGetTransactionFromRelay(t.Context(), relaytest.User(to), fclient.RelayEntry{}, relayName)
	require.NoError(t, err)
	require.Equal(t, stored, got.EntriesQueued)
}

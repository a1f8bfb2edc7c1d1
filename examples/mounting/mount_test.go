// Package mounting_test mounts a relay in all the ways that homeservers route.
package mounting_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrix"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/dendrite"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

const (
	relayName        spec.ServerName = "relay"
	federationPrefix                 = "/_matrix/federation"
	prefixV1                         = federationPrefix + "/v1"
)

// newFederationRouter makes the routers that Dendrite has: the one of the whole
// server, and that of federation. Both leave the path as the sender escaped it, and
// the relay needs that: X-Matrix signs the path, and user IDs may hold an escaped
// slash.
func newFederationRouter() (root, federation *mux.Router) {
	root = mux.NewRouter().SkipClean(true).UseEncodedPath()
	federation = root.PathPrefix(federationPrefix).Subrouter().SkipClean(true).UseEncodedPath()
	return root, federation
}

// neighbour is another route of the homeserver, which shows the path that it
// got.
func neighbour(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.EscapedPath()) }

// mountings are the ways to mount a relay. Each has the neighbours /v1/version
// and /v1/send/{txnID} too, if it leaves room for them.
var mountings = []struct {
	name  string
	alone bool // has no neighbours
	mount func(server http.Handler) http.Handler
}{
	{"gorilla/mux as Dendrite has it", false, func(server http.Handler) http.Handler {
		root, federation := newFederationRouter()
		federation.HandleFunc("/v1/version", neighbour).Methods(http.MethodGet)
		federation.HandleFunc("/v1/send/{txnID}", neighbour).Methods(http.MethodPut)
		dendrite.Mount(federation, server)
		return root
	}},
	{"gorilla/mux, mounted before the neighbours", false, func(server http.Handler) http.Handler {
		root, federation := newFederationRouter()
		dendrite.Mount(federation, server)
		v1 := federation.PathPrefix("/v1").Subrouter()
		v1.HandleFunc("/version", neighbour).Methods(http.MethodGet)
		v1.HandleFunc("/send/{txnID}", neighbour).Methods(http.MethodPut)
		return root
	}},
	{"gorilla/mux with routes as Dendrite writes them", false, func(server http.Handler) http.Handler {
		root, federation := newFederationRouter()
		v1 := federation.PathPrefix("/v1").Subrouter()
		v1.HandleFunc("/version", neighbour).Methods(http.MethodGet)
		v1.HandleFunc("/send/{txnID}", neighbour).Methods(http.MethodPut)
		v1.Handle("/send_relay/{txnID}/{userID}", server)
		v1.Handle("/relay_txn/{userID}", server)
		return root
	}},
	{"nothing", true, func(server http.Handler) http.Handler { return server }},
	{"ServeMux at the root", false, func(server http.Handler) http.Handler {
		mux := serveMux("")
		mux.Handle("/", server)
		return mux
	}},
	{"ServeMux on the prefix", false, func(server http.Handler) http.Handler {
		mux := serveMux("")
		mux.Handle(prefixV1+"/", server)
		return mux
	}},
	{"ServeMux on the two routes", false, func(server http.Handler) http.Handler {
		mux := serveMux("")
		mux.Handle(prefixV1+"/send_relay/", server)
		mux.Handle(prefixV1+"/relay_txn/", server)
		return mux
	}},
	{"ServeMux with wildcards", false, func(server http.Handler) http.Handler {
		mux := serveMux("")
		mux.Handle(prefixV1+"/send_relay/{txnID}/{userID}", server)
		mux.Handle(prefixV1+"/relay_txn/{userID}", server)
		return mux
	}},
	{"StripPrefix", false, func(server http.Handler) http.Handler {
		mux := serveMux("")
		mux.Handle(prefixV1+"/", http.StripPrefix(prefixV1, server))
		return mux
	}},
	{"a prefix that a proxy adds", false, func(server http.Handler) http.Handler {
		mux := serveMux("/matrix")
		mux.Handle("/matrix"+prefixV1+"/", server)
		return addPrefix(mux)
	}},
	{"a prefix that a proxy adds and the homeserver strips", false, func(server http.Handler) http.Handler {
		mux := serveMux("")
		mux.Handle(prefixV1+"/", server)
		return addPrefix(http.StripPrefix("/matrix", mux))
	}},
	{"chi on the two routes", false, func(server http.Handler) http.Handler {
		router := chiRouter()
		router.Handle(prefixV1+"/send_relay/*", server)
		router.Handle(prefixV1+"/relay_txn/*", server)
		return router
	}},
	{"chi with wildcards", false, func(server http.Handler) http.Handler {
		router := chiRouter()
		router.Handle(prefixV1+"/send_relay/{txnID}/{userID}", server)
		router.Handle(prefixV1+"/relay_txn/{userID}", server)
		return router
	}},
	{"chi, mounted on the prefix", false, func(server http.Handler) http.Handler {
		router := chiRouter()
		router.Mount(prefixV1, server)
		return router
	}},
	{"chi, in subrouters", false, func(server http.Handler) http.Handler {
		router := chi.NewRouter()
		router.Route(federationPrefix, func(federation chi.Router) {
			federation.Route("/v1", func(v1 chi.Router) {
				v1.Get("/version", neighbour)
				v1.Put("/send/{txnID}", neighbour)
				v1.Mount("/", server)
			})
		})
		return router
	}},
}

// serveMux has the neighbours, below a prefix.
func serveMux(prefix string) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+prefix+prefixV1+"/version", neighbour)
	mux.HandleFunc("PUT "+prefix+prefixV1+"/send/{txnID}", neighbour)
	return mux
}

func chiRouter() *chi.Mux {
	router := chi.NewRouter()
	router.Get(prefixV1+"/version", neighbour)
	router.Put(prefixV1+"/send/{txnID}", neighbour)
	return router
}

// addPrefix is a homeserver behind a proxy that adds /matrix to the path.
func addPrefix(homeserver http.Handler) http.Handler {
	behind := httptest.NewServer(homeserver)
	target, err := url.Parse(behind.URL + "/matrix")
	if err != nil {
		panic(err) // can't be
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	return closing{proxy, behind}
}

// closing closes the server behind a handler, with it.
type closing struct {
	http.Handler
	behind *httptest.Server
}

// A site is a relay that is mounted, and the way to it.
type site struct {
	server  *relay.Server
	url     string
	network *relaytest.Network
}

func newSite(t *testing.T, mount func(http.Handler) http.Handler) *site {
	mail := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{ServerName: relayName, Store: mail})
	require.NoError(t, err)
	handler := mount(server)
	web := httptest.NewServer(handler)
	network := relaytest.NewNetwork()
	network.Set(relayName, relaytest.Host{Address: web.Listener.Addr().String()})
	t.Cleanup(func() {
		network.CloseIdleConnections()
		web.Close()
		if c, ok := handler.(closing); ok {
			c.behind.Close()
		}
		assert.NoError(t, server.Close())
		assert.NoError(t, mail.Close())
	})
	return &site{server, web.URL, network}
}

func TestMountings(t *testing.T) {
	for _, m := range mountings {
		t.Run(m.name, func(t *testing.T) {
			s := newSite(t, m.mount)
			t.Run("delivery", s.delivers)
			t.Run("signature", s.checksSignatures)
			t.Run("refusals", s.refuses)
			t.Run("off", s.canBeOff)
			if !m.alone {
				t.Run("neighbours", s.leavesNeighbours)
			}
		})
	}
}

// localparts, which stand escaped in the path, and transaction IDs, which
// fclient puts there as they are.
var (
	localparts     = []string{"user", "a/b=c", "//", "a/../b", "/_matrix/federation/v1/relay_txn/@x", "100%", "a%2Fb", "b+c?d#e%", "<\"&'>|[{}]"}
	transactionIDs = []string{"1700000000000-12", "a:b@c", "a=b&c+d;e,f!g$h'(i)*", "~", "a.b", "...", "a%2Fb", "a%2F%2Fb", "%E4%BD%A0", "send_relay"}
)

// delivers sends for each odd user ID and with each odd transaction ID, and
// fetches it all.
func (s *site) delivers(t *testing.T) {
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	var sent []gomatrixserverlib.Transaction
	send := func(user spec.UserID, id string) {
		transaction := a.Transaction(b.ServerName, id, 1, 600+len(sent)) // no two alike
		_, err := a.Federation(s.network).P2PSendTransactionToRelay(t.Context(), user, transaction, relayName)
		require.NoError(t, err, "%s %s", user.String(), id)
		sent = append(sent, transaction)
	}
	for _, localpart := range localparts {
		send(oddUser(t, localpart, b.ServerName), "user")
	}
	for _, id := range transactionIDs {
		send(relaytest.User(b.ServerName), id)
	}
	var last fclient.RelayEntry
	for i, want := range sent {
		user := oddUser(t, localparts[i%len(localparts)], b.ServerName)
		got, err := b.Federation(s.network).P2PGetTransactionFromRelay(t.Context(), user, last, relayName)
		require.NoError(t, err, user.String())
		require.True(t, got.EntriesQueued)
		require.Equal(t, string(want.PDUs[0]), string(got.Transaction.PDUs[0]))
		last.EntryID = got.EntryID
	}
	got, err := b.Federation(s.network).P2PGetTransactionFromRelay(t.Context(), relaytest.User(b.ServerName), last, relayName)
	require.NoError(t, err)
	require.False(t, got.EntriesQueued)
}

func oddUser(t *testing.T, localpart string, server spec.ServerName) spec.UserID {
	t.Helper()
	user, err := spec.NewUserID("@"+localpart+":"+string(server), true)
	require.NoError(t, err)
	return *user
}

// checksSignatures changes requests after they were signed.
func (s *site) checksSignatures(t *testing.T) {
	a, b, c := relaytest.NewNode("a"), relaytest.NewNode("b").ServerName, relaytest.NewNode("c").ServerName
	uri := wire.SendRelayURI("t1", oddUser(t, "a/b", b))
	for name, change := range map[string]func(*http.Request){
		"body": func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader([]byte(`{"pdus":[]}`))), int64(len(`{"pdus":[]}`))
		},
		"user": func(r *http.Request) {
			r.URL.RawPath, r.URL.Path = pathOf(t, wire.SendRelayURI("t1", oddUser(t, "a/b", c)))
		},
		"ID": func(r *http.Request) {
			r.URL.RawPath, r.URL.Path = pathOf(t, wire.SendRelayURI("t2", oddUser(t, "a/b", b)))
		},
		"escaping":  func(r *http.Request) { r.URL.RawPath, r.URL.Path = r.URL.RawPath+"%20", r.URL.Path+" " },
		"query":     func(r *http.Request) { r.URL.RawQuery = "a=b" },
		"signature": func(r *http.Request) { r.Header.Del("Authorization") },
	} {
		request, err := a.Request(http.MethodPut, relayName, uri, a.Transaction(b, "t1", 1, 300))
		require.NoError(t, err)
		change(request)
		response, body := s.do(t, request)
		wantStatus := http.StatusUnauthorized
		if name == "escaping" { // makes another server name of it
			wantStatus = http.StatusBadRequest
		}
		require.Equal(t, wantStatus, response.StatusCode, "%s: %s", name, body)
	}
}

func pathOf(t *testing.T, uri string) (raw, path string) {
	path, err := url.PathUnescape(uri)
	require.NoError(t, err)
	return uri, path
}

// do makes a request and returns the answer and its body.
func (s *site) do(t *testing.T, request *http.Request) (*http.Response, string) {
	t.Helper()
	response, err := s.network.RoundTrip(request)
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response, string(body)
}

// refuses paths that aren't there, with the relay's own words.
func (s *site) refuses(t *testing.T) {
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	for _, test := range []struct {
		method, uri string
		status      int
		allow       string
	}{
		{http.MethodPost, wire.SendRelayURI("t", relaytest.User(b.ServerName)), http.StatusMethodNotAllowed, http.MethodPut},
		{http.MethodGet, wire.SendRelayURI("t", relaytest.User(b.ServerName)), http.StatusMethodNotAllowed, http.MethodPut},
		{http.MethodPut, wire.RelayTxnURI(relaytest.User(b.ServerName)), http.StatusMethodNotAllowed, http.MethodGet},
		{http.MethodGet, prefixV1 + "/relay_txn/nobody", http.StatusBadRequest, ""},
		{http.MethodGet, wire.RelayTxnURI(relaytest.User(b.ServerName)), http.StatusForbidden, ""},
	} {
		request, err := a.Request(test.method, relayName, test.uri, fclient.RelayEntry{})
		require.NoError(t, err)
		response, body := s.do(t, request)
		require.Equal(t, test.status, response.StatusCode, "%s %s: %s", test.method, test.uri, body)
		require.Equal(t, test.allow, response.Header.Get("Allow"))
		require.NotEmpty(t, matrixCode(body), body)
	}
}

func matrixCode(body string) string {
	var e gomatrix.RespError
	if json.Unmarshal([]byte(body), &e) != nil {
		return ""
	}
	return e.ErrCode
}

func (s *site) canBeOff(t *testing.T) {
	s.server.SetEnabled(false)
	defer s.server.SetEnabled(true)
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	_, err := a.Federation(s.network).P2PSendTransactionToRelay(t.Context(), relaytest.User(b.ServerName), a.Transaction(b.ServerName, "t", 1, 300), relayName)
	requireStatus(t, http.StatusNotFound, err)
	_, err = b.Federation(s.network).P2PGetTransactionFromRelay(t.Context(), relaytest.User(b.ServerName), fclient.RelayEntry{}, relayName)
	requireStatus(t, http.StatusNotFound, err)
}

func requireStatus(t *testing.T, want int, err error) {
	t.Helper()
	answer := gomatrix.HTTPError{}
	require.ErrorAs(t, err, &answer)
	require.Equal(t, want, answer.Code)
	require.NotEmpty(t, matrixCode(string(answer.Contents)))
}

func (s *site) leavesNeighbours(t *testing.T) {
	for _, test := range []struct{ method, path string }{
		{http.MethodGet, "/version"},
		{http.MethodPut, "/send/123"},
		{http.MethodPut, "/send/a%2Fb"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), test.method, "matrix://"+string(relayName)+prefixV1+test.path, nil)
		require.NoError(t, err)
		response, body := s.do(t, request)
		require.Equal(t, http.StatusOK, response.StatusCode, test.path)
		require.Contains(t, body, prefixV1+test.path)
	}
}

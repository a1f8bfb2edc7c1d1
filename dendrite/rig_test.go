package dendrite_test

import (
	"context"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/dendrite"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
)

// a sends, b is a homeserver with the package, r its relay.
var a, b = relaytest.NewNode("a"), relaytest.NewNode("b")

const r spec.ServerName = "relay"

// A process is a Dendrite's.
type process struct {
	context.Context
	stop       context.CancelFunc
	components sync.WaitGroup
}

func newProcess(t *testing.T) *process {
	p := &process{}
	p.Context, p.stop = context.WithCancel(t.Context())
	return p
}

func (p *process) ComponentStarted()  { p.components.Add(1) }
func (p *process) ComponentFinished() { p.components.Done() }

type dendriteProcess struct{ *process }

func (p dendriteProcess) Context() context.Context { return p.process.Context }

// A homeserver is made like Dendrite, and remembers the transactions to process.
type homeserver struct {
	t       *testing.T
	network *relaytest.Network
	relay   *relaytest.Relay
	process *process
	root    *mux.Router
	router  *mux.Router
	config  dendrite.Config
	mounted *dendrite.Relay

	mu        sync.Mutex
	processed []gomatrixserverlib.Transaction
	sent      []string // bodies that its own PUT /send had
	woken     []spec.ServerName

	transact func(context.Context) *util.JSONResponse // called besides
	answer   func(http.ResponseWriter, *http.Request) // answers its PUT /send
}

// newHomeserver makes b, with a relay r that has nothing yet.
func newHomeserver(t *testing.T) *homeserver {
	h := &homeserver{t: t, network: relaytest.NewNetwork(), process: newProcess(t)}
	t.Cleanup(func() { assert.NoError(t, h.network.Close()) })
	var err error
	h.relay, err = h.network.AddRelay(relay.Config{ServerName: r})
	require.NoError(t, err)
	h.root = mux.NewRouter().SkipClean(true).UseEncodedPath()
	h.router = h.root.PathPrefix("/_matrix/federation/").Subrouter().SkipClean(true).UseEncodedPath()
	h.router.PathPrefix("/v1").Subrouter().HandleFunc("/send/{txnID}", h.send).Methods(http.MethodPut, http.MethodOptions).Name(dendrite.SendRoute)
	h.network.Set(b.ServerName, relaytest.Host{Handler: h.root})
	mail := memory.New(memory.Options{})
	t.Cleanup(func() { assert.NoError(t, mail.Close()) })
	quiet := logrus.New()
	quiet.Out = io.Discard
	h.transact = func(context.Context) *util.JSONResponse { return nil }
	h.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"pdus":{"$event":{}}}`) }
	h.config = dendrite.Config{
		Router: h.router, Process: dendriteProcess{h.process}, Store: mail, RelayingEnabled: true,
		Identity: b.SigningIdentity, Keys: relaytest.Keys(), Client: b.Federation(h.network),
		Logger: logrus.NewEntry(quiet), Transact: h.processes,
		RelaysOf: func(context.Context, spec.ServerName) ([]spec.ServerName, error) { return []spec.ServerName{r}, nil },
		WakeUp: func(server spec.ServerName) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.woken = append(h.woken, server)
		},
		Adjust: func(_ *relay.Config, node *client.NodeConfig) {
			node.Receiver.Backoff = client.Backoff{First: -1}
		},
	}
	return h
}

// start starts the relay of the package, until the test ends.
func (h *homeserver) start() {
	h.t.Helper()
	var err error
	h.mounted, err = dendrite.Start(h.config)
	require.NoError(h.t, err)
	h.t.Cleanup(h.stop)
}

// stop ends the process, and waits for its components.
func (h *homeserver) stop() {
	h.process.stop()
	h.process.components.Wait()
}

func (h *homeserver) processes(ctx context.Context, t gomatrixserverlib.Transaction) (*fclient.RespSend, *util.JSONResponse) {
	h.mu.Lock()
	h.processed = append(h.processed, t)
	h.mu.Unlock()
	if refusal := h.transact(ctx); refusal != nil {
		return nil, refusal
	}
	return &fclient.RespSend{PDUs: map[string]fclient.PDUResult{"$event": {Error: "not allowed"}}}, nil
}

// send is the homeserver's own PUT /send.
func (h *homeserver) send(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	assert.NoError(h.t, err)
	h.mu.Lock()
	h.sent = append(h.sent, string(body))
	h.mu.Unlock()
	h.answer(w, request)
}

// got returns the IDs of transactions that were processed, and how often PUT /send was
// called.
func (h *homeserver) got() (ids []gomatrixserverlib.TransactionID, sent int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.processed {
		ids = append(ids, t.TransactionID)
	}
	return ids, len(h.sent)
}

// leave has a leave a transaction at a relay.
func (h *homeserver) leave(id string, at spec.ServerName) gomatrixserverlib.Transaction {
	h.t.Helper()
	transaction := a.Transaction(b.ServerName, id, 1, 300)
	_, err := a.Federation(h.network).P2PSendTransactionToRelay(h.t.Context(), relaytest.User(b.ServerName), transaction, at)
	require.NoError(h.t, err)
	return transaction
}

// waiting is how many transactions the relay has for b.
func (h *homeserver) waiting() int64 {
	h.t.Helper()
	usage, err := h.relay.Store.Usage(h.t.Context(), b.ServerName)
	require.NoError(h.t, err)
	return usage.Entries
}

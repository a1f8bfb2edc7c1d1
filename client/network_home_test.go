package client_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A homeserver handles the mail that a node gets, and keeps its outbox's events.
type homeserver struct {
	*member

	mu      sync.Mutex
	handled []handled
	direct  map[mailKey]bool
	arrival []mailKey // of direct
	ended   map[mailKey][]client.Result
}

// handled is a transaction that was handled; relay is empty if it came directly.
type handled struct {
	relay  spec.ServerName
	entry  int64
	origin spec.ServerName
	body   string
}

func (h *homeserver) take(got handled) {
	h.n.log("%.6s handles %s (%s %d)", h.name, h.n.nameOf(h.name, got.body), got.relay, got.entry)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handled = append(h.handled, got)
}

// arrived notes mail that came directly, the first time.
func (h *homeserver) arrived(k mailKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.direct[k] {
		h.direct[k] = true
		h.arrival = append(h.arrival, k)
	}
}

// note hears the news of mail that this node sends.
func (h *homeserver) note(e client.Event) {
	k := mailKey{e.Destination, h.name, e.TransactionID}
	h.n.log("%.6s: %s for %.6s %s", h.name, e.TransactionID, e.Destination, e.Result)
	relayed := slices.ContainsFunc(h.n.dropboxes, func(d *dropbox) bool { return d.ledger.has(k) })
	if !relayed && (e.Result == client.ResultRelayed || e.Result == client.ResultDropped) {
		h.n.Errorf("%s is %s, and no relay has it", e.TransactionID, e.Result)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended[k] = append(h.ended[k], e.Result)
}

// handle takes mail that a relay had. It doesn't mind that the node is closing.
func (m *member) handle(_ context.Context, got client.Received) error {
	if m.dice.trouble(m.n.faulty) {
		return errors.New("the homeserver is busy")
	}
	time.Sleep(m.dice.upTo(2 * time.Second))
	m.home.take(handled{relay: got.Relay, entry: got.EntryID, origin: got.Origin, body: string(got.Body)})
	return nil
}

// serve takes mail that comes directly.
func (m *member) serve(w http.ResponseWriter, r *http.Request) {
	receiver := m.enter()
	if receiver == nil {
		(&wire.Error{Status: http.StatusServiceUnavailable, Code: spec.ErrorUnknown}).Write(w)
		return
	}
	defer m.requests.Done()
	if strings.HasPrefix(r.URL.Path, wire.Prefix+string(wire.SendRelay)) {
		m.serveRelay(w, r)
		return
	}
	origin, body, err := m.verify(r)
	if err != nil {
		m.n.Errorf("a direct request: %v", err)
	}
	if m.dice.chance(30) {
		m.sees(origin)
	}
	time.Sleep(m.dice.upTo(2 * time.Second))
	key := mailKey{m.name, origin, gomatrixserverlib.TransactionID(path.Base(r.URL.Path))}
	_, err = receiver.Direct(r.Context(), origin, key.id, body, func(context.Context) error {
		if m.dice.trouble(m.n.faulty) {
			return errors.New("the homeserver is busy")
		}
		m.home.take(handled{origin: origin, body: string(body)})
		return nil
	})
	if err != nil {
		(&wire.Error{Status: http.StatusInternalServerError, Code: spec.ErrorUnknown}).Write(w)
		return
	}
	m.home.arrived(key)
	_, _ = io.WriteString(w, `{}`)
}

// newInlet makes the server to which relays hand mail over.
func (m *member) newInlet(takes bool) *relay.Server {
	config := relay.Config{ServerName: m.name, Store: memory.New(memory.Options{}), Logger: slog.New(slog.DiscardHandler)}
	if takes {
		config.Deliver = m.deliver
	}
	inlet, err := relay.New(config)
	require.NoError(m.n, err)
	return inlet
}

func (m *member) serveRelay(w http.ResponseWriter, r *http.Request) {
	if m.inlet == nil {
		wire.Unrecognized().Write(w)
		return
	}
	time.Sleep(m.dice.upTo(2 * time.Second))
	m.inlet.ServeHTTP(w, r)
}

// deliver takes mail that a relay hands over.
func (m *member) deliver(ctx context.Context, d relay.Delivery) error {
	receiver := m.enter()
	if receiver == nil {
		return errors.New("the homeserver is closing")
	}
	defer m.requests.Done()
	_, err := receiver.Direct(ctx, d.Origin, d.TransactionID, d.Body, func(context.Context) error {
		if m.dice.trouble(m.n.faulty) {
			return errors.New("the homeserver is busy")
		}
		m.home.take(handled{origin: d.Origin, body: string(d.Body)})
		return nil
	})
	return err
}

func (m *member) verify(r *http.Request) (spec.ServerName, []byte, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return "", nil, err
	}
	uri, _ := wire.SignedURI(r)
	verifier := wire.Verifier{ServerName: m.name, Keys: wire.HexKeys{}}
	request := wire.SignedRequest{Method: r.Method, URI: uri, Authorization: r.Header.Values("Authorization"), Content: body}
	origin, err := verifier.Verify(r.Context(), &request, time.Now())
	return origin, slices.Clone(body), err
}

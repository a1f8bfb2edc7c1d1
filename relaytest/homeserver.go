package relaytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// A Homeserver is a server that takes transactions: an http.Handler for
// PUT /_matrix/federation/v1/send/{txnID} that checks the signature and
// remembers the transaction. It is safe for concurrent use.
type Homeserver struct {
	// Name is its server name, Keys checks signatures.
	Name spec.ServerName
	Keys gomatrixserverlib.JSONVerifier

	// Take, if it isn't nil, decides whether a transaction is taken. An error
	// means that it isn't, and isn't remembered: a *wire.Error is the answer,
	// any other becomes a 500. It is called by many goroutines at once, and must
	// be set before the first request.
	Take func(ctx context.Context, sent Sent) error

	mu    sync.Mutex
	sent  []Sent
	added chan struct{} // closed when there is more in sent
}

// Sent is a transaction that a Homeserver was sent.
type Sent struct {
	Origin        spec.ServerName                 `json:"-"` // that signed it
	TransactionID gomatrixserverlib.TransactionID `json:"-"`
	Body          json.RawMessage                 `json:"-"`
	PDUs          []json.RawMessage               `json:"pdus"`
	EDUs          []gomatrixserverlib.EDU         `json:"edus"`
}

// NewHomeserver returns one for that name with the keys of all nodes: see Keys.
func NewHomeserver(name spec.ServerName) *Homeserver {
	return &Homeserver{Name: name, Keys: Keys(), added: make(chan struct{})}
}

// AddHomeserver puts a new Homeserver on the network.
func (n *Network) AddHomeserver(name spec.ServerName) *Homeserver {
	h := NewHomeserver(name)
	n.Set(name, Host{Handler: h})
	return h
}

// Sent returns the transactions that were taken, in that order.
func (h *Homeserver) Sent() []Sent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sent)
}

// Await waits until so many were taken, and returns all. It fails when the
// context ends before that.
func (h *Homeserver) Await(ctx context.Context, count int) ([]Sent, error) {
	for {
		h.mu.Lock()
		sent, added := slices.Clone(h.sent), h.added
		h.mu.Unlock()
		if len(sent) >= count {
			return sent, nil
		}
		select {
		case <-added:
		case <-ctx.Done():
			return sent, fmt.Errorf("relaytest: %s got %d transactions of %d: %w", h.Name, len(sent), count, ctx.Err())
		}
	}
}

// ServeHTTP implements http.Handler.
func (h *Homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h.take(r)
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"pdus":{}}`)
		return
	}
	var answer *wire.Error
	if !errors.As(err, &answer) {
		answer = &wire.Error{Status: http.StatusInternalServerError, Code: spec.ErrorUnknown, Message: err.Error()}
	}
	answer.Write(w)
}

func (h *Homeserver) take(r *http.Request) error {
	sent, err := h.read(r)
	if err != nil {
		return err
	}
	if h.Take != nil {
		if err := h.Take(r.Context(), sent); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent = append(h.sent, sent)
	close(h.added)
	h.added = make(chan struct{})
	return nil
}

// maxSent bounds a body: as much as a relay takes in by default.
const maxSent = 10 << 20

// read checks a request.
func (h *Homeserver) read(r *http.Request) (Sent, error) {
	uri, _ := wire.SignedURI(r)
	path, _, _ := strings.Cut(uri, "?")
	escaped, ok := strings.CutPrefix(path, "/_matrix/federation/v1/send/")
	id, err := url.PathUnescape(escaped)
	if !ok || err != nil || r.Method != http.MethodPut {
		return Sent{}, wire.Unrecognized()
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxSent))
	if err != nil {
		return Sent{}, fmt.Errorf("relaytest: reading a transaction: %w", err)
	}
	verifier := wire.Verifier{ServerName: h.Name, Keys: h.Keys}
	signed := wire.SignedRequest{Method: r.Method, URI: uri, Authorization: r.Header.Values("Authorization"), Content: body}
	origin, err := verifier.Verify(r.Context(), &signed, time.Now())
	if err != nil {
		return Sent{}, err
	}
	sent := Sent{Origin: origin, TransactionID: gomatrixserverlib.TransactionID(id), Body: body}
	if err := json.Unmarshal(body, &sent); err != nil {
		return Sent{}, wire.BadRequest(spec.ErrorBadJSON, "the body is no transaction")
	}
	return sent, nil
}

// Package relay is a Matrix relay: a drop box for transactions whose
// destination can't be reached. A homeserver mounts a Server on its federation
// routes and is one.
//
//	server, err := relay.New(relay.Config{ServerName: "example.org", Keys: keyRing})
//	...
//	mux.Handle("/_matrix/federation/v1/send_relay/", server)
//	mux.Handle("/_matrix/federation/v1/relay_txn/", server)
//
// It works under any router, on a prefix of these paths too, as long as the
// request reaches it with the URI that was sent (under gorilla/mux, with
// UseEncodedPath and SkipClean).
//
// # Delivery
//
// A sender that got 200 can forget the transaction: the store has it (SQLite:
// on the disk), and its destination gets it at least once, in order of arrival,
// unless it doesn't come for it within Config.Lifetime. A transaction that is
// sent again is kept once. An entry leaves the mailbox when its destination,
// and nobody else, acknowledges it by asking for the next.
//
// What a sender gets instead of 200, and what is then to be done, is in the
// Matrix error body: 400 and 413 mean that this transaction will never be
// taken, 401, 403, 404 and 405 that this relay is of no use as it is, 408, 429,
// 5xx that it may be later. A server whose keys can't be looked up gets 503.
//
// Package wire describes the protocol, package store where mail is kept, and
// package client the other side.
package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A Server is a relay: an http.Handler for the two endpoints. Make one with
// New. All methods are safe for concurrent use.
type Server struct {
	config    Config
	verifier  wire.Verifier
	bodies    *budget // what is being taken in
	answers   *budget // what is being handed out
	forwarder forwarder
	retriever retriever
	waits     *waits
	metrics   *metrics
	enabled   atomic.Bool

	// ownStore is the store that Close closes: the one New opened, or nil.
	ownStore store.Store

	mu       sync.Mutex
	closed   bool
	requests sync.WaitGroup

	closeOnce sync.Once
	closeErr  error
}

var _ http.Handler = (*Server)(nil)

// New makes a relay. If the configuration names no store it opens one, and
// fails if it can't.
func New(config Config) (*Server, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		config: config,
		bodies: newBudget(config.MaxInFlightBytes), answers: newBudget(config.MaxInFlightBytes),
		waits: newWaits(config.MaxWaiting),
	}
	if config.Store == nil {
		s.ownStore, err = openOwnStore(config)
		if err != nil {
			return nil, fmt.Errorf("relay: %w", err)
		}
		s.config.Store = s.ownStore
	}
	s.metrics, err = newMetrics(config.Registerer, s.config.Store, s.waits)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("relay: metrics: %w", err), s.Close())
	}
	s.verifier = wire.Verifier{ServerName: config.ServerName, IsLocal: config.IsLocalServerName, Keys: config.Keys}
	s.forwarder = forwarder{s.config, s.verifier, s.metrics}
	s.retriever = retriever{s.config, s.waits, s.answers, s.metrics}
	s.enabled.Store(!config.Disabled)
	return s, nil
}

// SetEnabled switches relaying on or off. While it is off every request is
// answered with 404 M_UNRECOGNIZED, and mail is kept; requests that wait for
// mail are answered as if their time were over.
func (s *Server) SetEnabled(on bool) {
	s.enabled.Store(on)
	s.waits.allow(on)
}

// Enabled reports whether relaying is on.
func (s *Server) Enabled() bool { return s.enabled.Load() }

// EndWaits answers the requests that wait for mail as if their time were over,
// and holds none from then on. An http.Server that is shut down waits for its
// requests, so have it call this: see http.Server.RegisterOnShutdown.
func (s *Server) EndWaits() { s.waits.endForGood() }

// Close refuses new requests, ends those that wait for mail, waits for those
// that are being answered, and closes the store if the Server opened it.
// Requests whose body or answer is still on its way after a few seconds are cut
// off; to give them longer, shut the http.Server down first. It may be called
// more than once.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.EndWaits()
		s.drain()
		s.metrics.unregister()
		if s.ownStore != nil {
			s.closeErr = s.ownStore.Close()
		}
	})
	return s.closeErr
}

// drain waits for the requests under way, and cuts off what takes long.
func (s *Server) drain() {
	done := make(chan struct{})
	go func() {
		s.requests.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-time.After(s.bodies.grace):
	}
	s.bodies.cutAll()
	s.answers.cutAll()
	<-done
}

// enter counts a request in, unless the server was closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.requests.Add(1)
	return true
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	uri, _ := wire.SignedURI(r)
	endpoint, _ := wire.ParseEndpoint(uri)
	if !s.enter() {
		s.refuse(w, r, endpoint, errShuttingDown)
		return
	}
	defer s.requests.Done()
	answer, err := s.serve(w, r, uri)
	if err == nil {
		err = s.write(w, endpoint, answer)
	}
	if err != nil {
		s.refuse(w, r, endpoint, err)
	}
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, endpoint wire.Endpoint, err error) {
	e := s.wireError(r, endpoint, err)
	s.metrics.answered(endpoint, e.Status)
	e.Write(w)
}

// An answer is the body of a 200, in pieces that needn't be put together.
type answer struct {
	pieces       [][]byte
	transactions int
	share        *share // what it holds already, or nil
}

func (a *answer) size() (size int) {
	for _, piece := range a.pieces {
		size += len(piece)
	}
	return size
}

// write sends an answer that is a success. It fails, and nothing was sent, if
// too many large ones are on their way. It doesn't wait for them: the answer is
// in memory already.
func (s *Server) write(w http.ResponseWriter, endpoint wire.Endpoint, a answer) error {
	share := a.share
	if share == nil {
		share = s.answers.share(cutWriting(w))
	}
	defer share.release()
	size := a.size()
	if (size > firstRead || a.share != nil) && !share.set(int64(size), false) {
		return tooMuchInFlight()
	}
	s.metrics.answered(endpoint, http.StatusOK)
	s.metrics.handOut(a.transactions)
	wire.NoStore(w.Header())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(size))
	for _, piece := range a.pieces {
		if _, err := w.Write(piece); err != nil {
			return nil // whoever has gone asks again
		}
	}
	return nil
}

// serve does the cheap refusals, then the signature, then the rest. Its error
// is a *wire.Error, or one that the caller isn't told about.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, uri string) (answer, error) {
	request, route, err := s.preflight(r, uri)
	if err != nil {
		return answer{}, err
	}
	body := body{share: s.bodies.share(cutReading(w))}
	defer body.release()
	if err := s.readBody(w, r, route.Endpoint, &body); err != nil {
		return answer{}, err
	}
	request.Content = body.bytes
	signer, err := s.verify(r.Context(), &request, body.share)
	if err != nil {
		return answer{}, err
	}
	if route.Endpoint == wire.SendRelay {
		return s.forwarder.put(r.Context(), route, signer, &request, body.share)
	}
	body.release() // it may have to wait
	return s.retriever.next(r.Context(), asking{
		route: route, signer: signer, body: body.bytes,
		cut: cutWriting(w), hold: func() func() { return allowWaiting(w) },
	})
}

func (s *Server) readBody(w http.ResponseWriter, r *http.Request, endpoint wire.Endpoint, body *body) error {
	limit, most := s.config.MaxBodyBytes+wire.MaxProofBytes, s.config.MaxBodyBytes
	if endpoint == wire.RelayTxn {
		limit, most = wire.MaxEntryRequestBytes, wire.MaxEntryRequestBytes
	}
	if err := body.read(w, r, limit); err != nil {
		return err
	}
	if int64(len(body.bytes)) > most && !wire.HasProof(body.bytes) {
		return tooLarge(most)
	}
	if len(body.bytes) > 0 {
		return wire.CheckContentType(r.Header.Get("Content-Type"))
	}
	return nil
}

// slowFactor is about how much memory, in sizes of the body, it takes to check
// a signature with fclient.
const slowFactor = 12

// verify checks the signature.
func (s *Server) verify(ctx context.Context, request *wire.SignedRequest, share *share) (signer spec.ServerName, err error) {
	size := int64(len(request.Content))
	quick := size <= small || s.verifier.Quick(request)
	err = share.whileChecking(ctx, size, quick, func(ctx context.Context) (err error) {
		signer, err = s.verifier.Verify(ctx, request, time.Now())
		return err
	})
	return signer, err
}

// whileChecking runs the check of a signature over that much. While it waits for
// somebody else's keys, the request can be cut off for others. Quick checks take
// no memory to speak of.
func (s *share) whileChecking(ctx context.Context, size int64, quick bool, check func(context.Context) error) error {
	if !quick {
		if !s.set(slowFactor*size, true) {
			return tooMuchInFlight()
		}
		defer s.set(size, false)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.setCut(func() bool { cancel(); return true })
	err := check(ctx)
	if s.setCut(nil) {
		return tooMuchInFlight()
	}
	return err
}

// preflight refuses what can be refused without reading the body.
func (s *Server) preflight(r *http.Request, uri string) (wire.SignedRequest, wire.Route, error) {
	request := wire.SignedRequest{Method: r.Method, URI: uri, Authorization: r.Header.Values("Authorization")}
	endpoint, ok := wire.ParseEndpoint(uri)
	if !s.Enabled() || !ok {
		return request, wire.Route{}, wire.Unrecognized()
	}
	if r.Method != endpoint.Method() {
		return request, wire.Route{}, &wire.Error{
			Status: http.StatusMethodNotAllowed, Code: spec.ErrorUnrecognized,
			Message: "the method is not allowed here", Allow: endpoint.Method(),
		}
	}
	route, err := wire.ParseURI(uri)
	if err != nil {
		return request, route, err
	}
	origin, err := request.Claimed()
	if err != nil {
		return request, route, err
	}
	if route.Endpoint == wire.RelayTxn {
		return request, route, nil
	}
	return request, route, s.config.admit(r.Context(), origin, route.Destination())
}

// wireError is what the caller is told. What is our fault is logged.
func (s *Server) wireError(r *http.Request, endpoint wire.Endpoint, err error) *wire.Error {
	e, ok := errors.AsType[*wire.Error](err)
	if ok && e != nil && e.Status >= 400 && e.Status < 600 {
		return e
	}
	if r.Context().Err() != nil {
		return &wire.Error{Status: statusClientGone, Code: spec.ErrorUnknown, Message: "the client has gone"}
	}
	if errors.Is(err, store.ErrReopen) { // the store has said so once, and can't say anything new
		return &wire.Error{Status: http.StatusInternalServerError, Code: spec.ErrorUnknown, Message: "the store failed"}
	}
	s.config.Logger.Error("relay: a request failed", "endpoint", endpoint, "error", err)
	return &wire.Error{Status: http.StatusInternalServerError, Code: spec.ErrorUnknown, Message: "internal error"}
}

// statusClientGone is for the metrics: nobody gets the answer.
const statusClientGone = 499

var errShuttingDown = error(&wire.Error{
	Status: http.StatusServiceUnavailable, Code: spec.ErrorUnknown, Message: "shutting down",
})

// Package relay is a Matrix relay: a drop box for transactions whose
// destination can't be reached. A homeserver mounts a Server on its federation
// routes and is one.
//
//	server, err := relay.New(relay.Config{ServerName: "example.org", Keys: keyRing})
//	...
//	server.Mount(mux)
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
// An answer other than 200 has a Matrix error body, which tells the sender how to
// go on: 400 and 413 mean that this transaction will never be taken, 401, 403, 404
// and 405 that this relay is of no use as it is, 408, 429 and 5xx that it may be of
// use later. A server whose keys can't be looked up gets 503.
//
// Package wire describes the protocol, package store the place where mail is kept,
// and package client the other side.
package relay

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A Server is a relay: an http.Handler for the two endpoints of the baseline and for all
// paths that begin with wire.Unstable. Make one with New. All methods are safe for
// concurrent use.
type Server struct {
	config  Config
	memory  memory
	checks  *checks
	waits   *waits
	busy    *busy
	pauses  *pauses
	metrics *metrics
	lately  *activity.Log
	health  *health
	room    policy.Room // for mail, unless the policy gives less
	info    []byte

	stopCommits func() // has the store tell the activity of no more, or nil

	// The stages of a request: see the type.
	gate      gate
	verifier  wire.Verifier
	forwarder forwarder
	retriever retriever
	records   *records
	receipts  *receipts
	answers   answers

	// ownStore is the store that Close closes: the one New opened, or nil.
	ownStore store.Store

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
	s := &Server{memory: newMemory(config.MaxInFlightBytes), checks: newChecks(), waits: newWaits(config.MaxWaiting), busy: newBusy(), pauses: newPauses(config.MaxWaiting / 2)}
	s.lately = activity.New(activity.Options{Waiting: s.waits.count, MaxWaiting: max(config.MaxWaiting, 0)})
	s.answers = newAnswers(s.memory, s.lately, config.Logger)
	if config.Store == nil {
		s.ownStore, err = openOwnStore(config)
		if err != nil {
			return nil, fmt.Errorf("relay: %w", err)
		}
		config.Store = s.ownStore
	}
	s.config, s.health = config, newHealth(config.Store)
	if committing, ok := config.Store.(store.Committing); ok {
		s.stopCommits = committing.OnCommit(func(c store.Commit) { s.lately.Committed(c.Took) })
	}
	s.gate.address, s.gate.policy, s.gate.local = config.ClientAddress, config.Policy, config.isHandedOver
	s.gate.verifier = &s.verifier
	s.gate.enabled.Store(!config.Disabled)
	s.verifier = wire.Verifier{ServerName: config.ServerName, IsLocal: config.IsLocalServerName, Keys: config.Keys}
	s.room = policy.Room{Limits: config.limits(), Lifetime: max(config.Lifetime, 0)}
	if s.metrics, err = newMetrics(&s.config, s.waits, s.Health); err != nil {
		return nil, errors.Join(fmt.Errorf("relay: metrics: %w", err), s.Close())
	}
	s.records = newRecords(&config, s.checks)
	s.receipts = newReceipts(&config, s.checks, s.metrics, s.lately)
	if s.info, err = makeInfo(&config, s.records, s.receipts); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.forwarder = forwarder{config, s.checks, s.metrics, s.lately, s.records, s.receipts}
	s.retriever = newRetriever(config, s.waits, s.busy, s.memory, s.metrics, s.lately, s.receipts)
	s.answers.metrics = s.metrics
	return s, nil
}

// Mount adds the routes of the relay to a mux. With another router, route all paths
// that begin with one of the three to the Server.
func (s *Server) Mount(mux *http.ServeMux) {
	for _, endpoint := range []wire.Endpoint{wire.SendRelay, wire.RelayTxn} {
		mux.Handle(wire.Prefix+string(endpoint)+"/", s)
	}
	mux.Handle(wire.Unstable, s)
}

// SetEnabled switches relaying on or off. While it is off every request is
// answered with 404 M_UNRECOGNIZED, and mail is kept; requests that wait for
// mail are answered as if their time were over.
func (s *Server) SetEnabled(on bool) {
	s.gate.enabled.Store(on)
	s.waits.allow(on)
}

// Enabled reports whether relaying is on.
func (s *Server) Enabled() bool { return s.gate.enabled.Load() }

// Activity has the counts of the Server's last hour and day: see package activity.
func (s *Server) Activity() *activity.Log { return s.lately }

// EndWaits answers the requests that wait for mail as if their time were over,
// and holds none from then on. An http.Server that is shut down waits for its
// requests, so have it call this: see http.Server.RegisterOnShutdown.
func (s *Server) EndWaits() {
	s.waits.endForGood()
	s.pauses.end()
}

// Close refuses new requests, ends those that wait for mail, waits for those
// that are being answered, and closes the store if the Server opened it.
// Requests whose body or answer is still on its way after a few seconds are cut
// off; to give them longer, shut the http.Server down first. It may be called
// more than once.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		empty := s.gate.close()
		s.EndWaits()
		select {
		case <-empty:
		case <-time.After(s.memory.in.grace):
			s.memory.cutAll()
			<-empty
		}
		s.answers.refusals.Close()
		s.metrics.unregister()
		if s.stopCommits != nil {
			s.stopCommits()
		}
		s.health.close()
		if s.ownStore != nil {
			s.closeErr = s.ownStore.Close()
		}
	})
	return s.closeErr
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := request{w: w, began: time.Now()}
	if !s.gate.enter() {
		s.answers.refuse(w, r, &q, errShuttingDown)
		return
	}
	defer s.gate.leave()
	defer q.admission.end()
	defer s.busy.leave(&q)
	answer, err := s.serve(w, r, &q)
	if q.route.Query.List {
		answer = compressed(answer, r)
	}
	if err == nil {
		err = s.answers.send(&q, answer)
	}
	if err != nil {
		s.refuse(w, r, &q, err)
	}
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, q *request, err error) {
	if isOverShare(q, err) {
		s.busy.leave(q)
		s.pauses.hold(r.Context(), q)
	}
	s.answers.refuse(w, r, q, err)
}

// Counted has requests to another handler count in the shares that the Policy gives to
// addresses, as those to the relay do: strangers could send it any number of them. It is for
// small answers to requests without a body, such as that of a server's keys. Requests over
// a share are refused with 429.
func (s *Server) Counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := request{w: w, began: time.Now()}
		defer q.admission.end()
		if err := s.gate.arrive(r, &q); err != nil {
			s.refuse(w, r, &q, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// serve has a request go through the stages, up to the answer. Its error is a
// *wire.Error, or one that the caller isn't told about.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, q *request) (answer, error) {
	if err := s.gate.arrive(r, q); err != nil {
		return answer{}, err
	}
	if err := s.busy.enter(q); err != nil {
		return answer{}, err
	}
	if err := s.gate.pass(r, q); err != nil {
		return answer{}, err
	}
	if q.route.Endpoint == wire.Info {
		return answer{pieces: [][]byte{s.info}}, nil
	}
	q.memory = s.memory.takeIn(w, q.holder())
	defer q.memory.release()
	if err := transfer(w, r, q, s.config.MaxBodyBytes); err != nil {
		return answer{}, err
	}
	if err := checkSignature(r.Context(), q, &s.verifier, s.checks, s.metrics); err != nil {
		return answer{}, err
	}
	if err := q.admission.signed(r.Context(), int64(len(q.Content)), s.room); err != nil {
		return answer{}, err
	}
	switch q.route.Endpoint {
	case wire.SendRelay:
		return s.forwarder.put(r.Context(), q)
	case wire.Mailbox, wire.Policy, wire.Leave:
		return own(r.Context(), q)
	case wire.Relays:
		return s.records.serve(r.Context(), q)
	case wire.Receipts:
		return s.receipts.serve(r.Context(), q)
	}
	return s.retriever.next(r.Context(), q)
}

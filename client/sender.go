package client

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/wire"
)

// Defaults of SenderConfig.
const (
	DefaultAttemptsBeforeOffline = 1
	DefaultDirectTimeout         = 15 * time.Second
	DefaultRelayTimeout          = 30 * time.Second
	DefaultMaxBackground         = 256
)

// SenderConfig of a Sender. Caller and Peers are required.
type SenderConfig struct {
	// Caller makes the requests, Peers knows the relays. The Sender tells Peers
	// which servers are offline and which are online again.
	Caller *Caller
	Peers  *Peers

	// AttemptsBeforeOffline is how many direct attempts in a row must fail
	// before a destination counts as offline, and relays are used. Dendrite
	// calls it failures until assumed offline. Zero:
	// DefaultAttemptsBeforeOffline. Negative: no failure makes it so.
	AttemptsBeforeOffline int

	// DirectTimeout and RelayTimeout bound each attempt. Zero:
	// DefaultDirectTimeout and DefaultRelayTimeout. Negative: no limit but
	// CallerConfig.Timeout.
	DirectTimeout time.Duration
	RelayTimeout  time.Duration

	// MaxBackground is how many attempts may go on after another relay has
	// taken their transaction. Those over it are ended. Zero:
	// DefaultMaxBackground. Negative: none goes on.
	MaxBackground int

	// RelayBackoff is how long a relay that fails is left alone. If its First is
	// negative, only for as long as the relay asks: for homeservers that have a
	// back-off of their own.
	RelayBackoff Backoff

	// Logger gets the lines of attempts in the background. Default: slog.Default().
	Logger *slog.Logger
}

// A Sender brings transactions on their way: directly, or through relays while
// their destination is offline. It keeps nothing: see Outbox for that. It is
// safe for concurrent use.
type Sender struct {
	config SenderConfig
	relays *backoffs[spec.ServerName] // unreachable, or asking for time
	pairs  *backoffs[pair]            // of no use for a destination

	// A server that doesn't know proofs of origin isn't to be filled with copies of
	// transactions that are passed on.
	proofless *backoffs[spec.ServerName]

	// book, if it isn't nil, is told of destinations that relays are wanted for.
	book *book

	background chan struct{} // a token for each attempt in the background
	attempts   sync.WaitGroup
	stop       context.Context
	cancel     context.CancelFunc
}

type pair struct{ relay, destination spec.ServerName }

// NewSender makes a Sender.
func NewSender(config SenderConfig) (*Sender, error) {
	if config.Caller == nil || config.Peers == nil {
		return nil, errors.New("client: SenderConfig needs Caller and Peers")
	}
	defaults.Bounds(&config.AttemptsBeforeOffline, DefaultAttemptsBeforeOffline, noLimit)
	defaults.Bounds(&config.DirectTimeout, DefaultDirectTimeout, defaults.Forever)
	defaults.Bounds(&config.RelayTimeout, DefaultRelayTimeout, defaults.Forever)
	defaults.Bounds(&config.MaxBackground, DefaultMaxBackground, 0)
	config.RelayBackoff = config.RelayBackoff.withDefaults()
	defaults.Set(&config.Logger, slog.Default())
	s := &Sender{
		config:     config,
		relays:     newBackoffs[spec.ServerName](config.RelayBackoff),
		pairs:      newBackoffs[pair](config.RelayBackoff),
		proofless:  newBackoffs[spec.ServerName](Backoff{}),
		background: make(chan struct{}, config.MaxBackground),
	}
	s.stop, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Close ends the attempts in the background and waits for them. It may be
// called more than once, and not while Send runs.
func (s *Sender) Close() error {
	s.cancel()
	s.attempts.Wait()
	return nil
}

// Send brings a transaction on its way and returns once its destination or a
// relay has it; the Outcome tells what happened at each server. Otherwise the error is
// a *SendError, which says whether and when to try again, or the context's.
//
// The destination is tried first. If it has failed often enough to count as
// offline, all its relays are tried at once; the first to take the transaction
// ends the wait, and the others go on in the background.
func (s *Sender) Send(ctx context.Context, t Transaction) (Outcome, error) {
	direct, offline := s.SendDirect(ctx, t)
	o := Outcome{Destination: direct}
	if err := ctx.Err(); err != nil && direct.Verdict != Delivered {
		return o, err
	}
	if direct.Verdict == Delivered {
		return o, nil
	}
	if direct.Verdict == Refused || !offline {
		return o, s.sendError(o)
	}
	var err error
	o.Relays, err = s.SendToRelays(ctx, t)
	if errors.As(err, new(*SendError)) {
		return o, s.sendError(o) // with the direct attempt
	}
	return o, err
}

// SendDirect tries the destination only, and reports whether it counts as
// offline after that.
func (s *Sender) SendDirect(ctx context.Context, t Transaction) (attempt Attempt, offline bool) {
	if wait := s.proofless.wait(t.Destination); t.Proof != nil && wait > 0 {
		return notPassedOn(t.Destination, wait), s.config.Peers.Offline(t.Destination)
	}
	limited, cancel := context.WithTimeout(ctx, s.config.DirectTimeout)
	defer cancel()
	attempt = judge(t.Destination, s.config.Caller.SendDirect(limited, t))
	var err error
	switch {
	case attempt.isOwn(): // which says nothing about the destination
		offline = s.config.Peers.Offline(t.Destination)
	case s.noteProofless(attempt): // it answers, and only relays can help
		offline, err = s.config.Peers.failed(ctx, t.Destination, s.config.AttemptsBeforeOffline)
	case attempt.Verdict == Delivered || attempt.Verdict == Refused || asksForTime(attempt):
		err = s.config.Peers.reached(ctx, t.Destination)
	case ctx.Err() == nil: // else it's the caller that gave up
		offline, err = s.config.Peers.failed(ctx, t.Destination, s.config.AttemptsBeforeOffline)
	}
	if err != nil && ctx.Err() == nil {
		s.config.Logger.Warn("client: could not write down whether a server is offline", "server", t.Destination, "error", err)
	}
	return attempt, offline
}

// asksForTime reports whether it is a homeserver that asks to be tried later, and
// not a proxy in front of one that is down.
func asksForTime(a Attempt) bool {
	var e *wire.Error
	return errors.As(a.Err, &e) && a.Verdict == Later && a.RetryAfter > 0 && e.Code != ""
}

// noteProofless notes whether a server doesn't know proofs of origin.
func (s *Sender) noteProofless(a Attempt) bool {
	if !errors.Is(a.Err, ErrNotPassedOn) {
		return false
	}
	s.proofless.failed(a.Server, prooflessFor)
	return true
}

// sendError sums up the outcome of a send that failed.
func (s *Sender) sendError(o Outcome) *SendError {
	e := &SendError{Outcome: o, Refused: o.Destination.Verdict == Refused, RelaysRefused: len(o.Relays) > 0}
	e.RetryAfter = o.Destination.RetryAfter
	for _, a := range o.Relays {
		e.Refused = e.Refused || a.isOwn()
		if a.Verdict == Refused {
			continue
		}
		e.RelaysRefused = false
		wait := max(a.RetryAfter, s.relayWait(a.Server, o.Destination.Server))
		if e.RetryAfter == 0 || wait > 0 && wait < e.RetryAfter {
			e.RetryAfter = wait
		}
	}
	return e
}

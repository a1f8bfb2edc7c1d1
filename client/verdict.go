package client

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// A Verdict is how an attempt at one server ended.
type Verdict int

const (
	// Untried means that there was no attempt.
	Untried Verdict = iota

	// Pending means that the attempt goes on; another one succeeded before it.
	Pending

	// Delivered means that the server has the transaction.
	Delivered

	// Refused means that the server will never take this transaction (400,
	// 413).
	Refused

	// NoUse means that this relay is of no use for this destination as it is
	// (401, 403, 404, ErrNotPassedOn): off, or not for it. The transaction is
	// as good as it was.
	NoUse

	// Later means that something answers and can't take it now (429, 5xx).
	Later

	// Unreachable means that there was no answer, or one without sense.
	Unreachable
)

// String names the verdict.
func (v Verdict) String() string {
	names := [...]string{"untried", "pending", "delivered", "refused", "no use", "later", "unreachable"}
	if v < 0 || int(v) >= len(names) {
		return fmt.Sprintf("Verdict(%d)", int(v))
	}
	return names[v]
}

// An Attempt is what happened at one server.
type Attempt struct {
	Server  spec.ServerName
	Verdict Verdict

	// Err says why, unless Verdict is Untried, Pending or Delivered.
	Err error

	// RetryAfter is when the server asked to be tried again, zero if it didn't.
	RetryAfter time.Duration
}

// judge sorts the outcome of a call.
func judge(server spec.ServerName, err error) Attempt {
	a := Attempt{Server: server, Verdict: Delivered, Err: err}
	if err == nil {
		return a
	}
	a.Verdict = Unreachable
	if errors.Is(err, ErrNotPassedOn) {
		return notPassedOn(server, prooflessFor)
	}
	e, ok := errors.AsType[*wire.Error](err)
	if !ok {
		return a
	}
	a.RetryAfter = e.RetryAfter
	switch e.Status {
	case http.StatusBadRequest:
		// Without a code it is no homeserver's word on the transaction, but a
		// proxy's or that of another server at this address.
		if e.Code != "" {
			a.Verdict = Refused
		}
	case http.StatusRequestEntityTooLarge:
		a.Verdict = Refused
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
		a.Verdict = NoUse
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		a.Verdict = Later
	default:
		if e.Status >= 500 {
			a.Verdict = Later
		}
	}
	return a
}

// prooflessFor is how long nothing is passed on to a server that doesn't know
// proofs of origin. It may learn it.
const prooflessFor = 24 * time.Hour

// notPassedOn is the outcome for a server that doesn't know proofs of origin.
func notPassedOn(server spec.ServerName, retryAfter time.Duration) Attempt {
	return Attempt{Server: server, Verdict: NoUse, Err: fmt.Errorf("client: %s: %w", server, ErrNotPassedOn), RetryAfter: retryAfter}
}

// An Outcome is what became of a transaction that was sent.
type Outcome struct {
	// Destination is the direct attempt, Relays are those at relays, in the
	// order of their names. A relay that is not to be bothered for now is
	// Untried.
	Destination Attempt
	Relays      []Attempt
}

// Delivered reports whether the destination itself has the transaction.
func (o *Outcome) Delivered() bool { return o.Destination.Verdict == Delivered }

// Relayed reports whether a relay has it.
func (o *Outcome) Relayed() bool {
	for _, a := range o.Relays {
		if a.Verdict == Delivered {
			return true
		}
	}
	return false
}

// A SendError says that neither the destination nor a relay has taken a
// transaction.
type SendError struct {
	Outcome Outcome

	// Refused says that trying again makes no sense: the destination itself
	// will never take this transaction.
	Refused bool

	// RelaysRefused says that every relay has refused it for good, so that
	// only the destination itself can still take it.
	RelaysRefused bool

	// RetryAfter is when a retry makes sense, unless Refused.
	RetryAfter time.Duration
}

// refusedByRelay reports whether a relay has refused it for good.
func (e *SendError) refusedByRelay() bool {
	return slices.ContainsFunc(e.Outcome.Relays, func(a Attempt) bool { return a.Verdict == Refused })
}

// Error implements error.
func (e *SendError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client: not sent: %s: %v", e.Outcome.Destination.Server, e.Outcome.Destination.Err)
	for _, a := range e.Outcome.Relays {
		if a.Err != nil {
			fmt.Fprintf(&b, "; relay %s: %v", a.Server, a.Err)
		}
	}
	return b.String()
}

// Unwrap gives what the servers answered.
func (e *SendError) Unwrap() []error {
	var errs []error
	for _, a := range append([]Attempt{e.Outcome.Destination}, e.Outcome.Relays...) {
		if a.Err != nil {
			errs = append(errs, a.Err)
		}
	}
	return errs
}

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

	// Refused means that the server will never take this transaction: see
	// final. Or that it can't be sent to any server (ErrUnsendable).
	Refused

	// NoUse means that this server is of no use for this destination as it is
	// (401, 403, 404, 405, a 400 that doesn't speak of the content,
	// ErrNotPassedOn): off, or not for it. The transaction is as good as it was.
	NoUse

	// Doubtful means that something answers that it won't take this transaction,
	// in words that aren't certain to be the server's or about the content (413
	// without M_TOO_LARGE, 400 with M_UNKNOWN). It may be tried again; others may
	// pass.
	Doubtful

	// Later means that something answers and can't take it now (429, 5xx).
	Later

	// Unreachable means that there was no answer, or one without sense.
	Unreachable
)

// String names the verdict.
func (v Verdict) String() string {
	names := [...]string{"untried", "pending", "delivered", "refused", "no use", "doubtful", "later", "unreachable"}
	if v < 0 || int(v) >= len(names) {
		return fmt.Sprintf("Verdict(%d)", int(v))
	}
	return names[v]
}

// An Attempt is the result of trying one server.
type Attempt struct {
	Server  spec.ServerName
	Verdict Verdict

	// Err says why, unless Verdict is Untried, Pending or Delivered.
	Err error

	// RetryAfter is when the server asked to be tried again, zero if it didn't.
	RetryAfter time.Duration
}

// isOwn reports whether it failed for a reason of ours, before any server was
// asked.
func (a Attempt) isOwn() bool { return errors.Is(a.Err, ErrUnsendable) }

// A refusal is an answer by its HTTP status and its Matrix error code.
type refusal struct {
	status int
	code   spec.MatrixErrorCode
}

// final are all answers that end a transaction at the server that gives them,
// and why. Each is a Matrix error code that speaks of this content, with the
// status that goes with it. Any other answer leaves the transaction as it was: it
// may be the word of a proxy, of a captive portal or of another server at this
// address, or speak of the sender or of the moment.
var final = map[refusal]string{
	{http.StatusBadRequest, spec.ErrorNotJSON}:             "the body can't be read as JSON",
	{http.StatusBadRequest, spec.ErrorBadJSON}:             "the JSON is not that of a transaction, or has too many PDUs or EDUs",
	{http.StatusBadRequest, spec.ErrorInvalidParam}:        "a value in it, or the transaction ID, isn't one that may be",
	{http.StatusBadRequest, spec.ErrorMissingParam}:        "something is missing in it",
	{http.StatusRequestEntityTooLarge, wire.ErrorTooLarge}: "it is larger than this server takes",
}

// doubtfulFor is how long a transaction isn't tried again where it may be that
// its content is refused.
const doubtfulFor = DefaultMostBackoff

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
	if a.isOwn() {
		a.Verdict = Refused
		return a
	}
	var e *wire.Error
	if errors.As(err, &e) {
		a.RetryAfter = e.RetryAfter
		a.Verdict = judgeAnswer(refusal{e.Status, e.Code})
	}
	if a.Verdict == Doubtful && a.RetryAfter == 0 {
		a.RetryAfter = doubtfulFor
	}
	return a
}

// judgeAnswer sorts an answer other than 200.
func judgeAnswer(r refusal) Verdict {
	if final[r] != "" {
		return Refused
	}
	switch {
	case r.status == http.StatusRequestEntityTooLarge, r.status == http.StatusBadRequest && r.code == spec.ErrorUnknown:
		return Doubtful
	case r.status == http.StatusBadRequest && r.code == "":
		return Unreachable // a proxy's word, or that of another server at this address
	case slices.Contains(noUse, r.status):
		return NoUse
	case r.status >= 500, r.status == http.StatusTooManyRequests, r.status == http.StatusRequestTimeout:
		return Later
	default:
		return Unreachable
	}
}

// noUse are the statuses with which a server says that it isn't for us.
var noUse = []int{
	http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
}

// prooflessFor is how long nothing is passed on to a server that doesn't know
// proofs of origin. It may learn it.
const prooflessFor = 24 * time.Hour

// notPassedOn is the outcome for a server that doesn't know proofs of origin.
func notPassedOn(server spec.ServerName, retryAfter time.Duration) Attempt {
	return Attempt{Server: server, Verdict: NoUse, Err: fmt.Errorf("client: %s: %w", server, ErrNotPassedOn), RetryAfter: retryAfter}
}

// An Outcome is the result of sending a transaction.
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
	// will never take this transaction, or it can't be sent (ErrUnsendable).
	Refused bool

	// RelaysRefused says that every relay has refused it for good, so that
	// only the destination itself can still take it.
	RelaysRefused bool

	// RetryAfter is when a retry makes sense, unless Refused.
	RetryAfter time.Duration
}

// Error implements error.
func (e *SendError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client: not sent: %s", e.Outcome.Destination.Server)
	if e.Outcome.Destination.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Outcome.Destination.Err)
	}
	for _, a := range e.Outcome.Relays {
		switch {
		case a.Err != nil:
			fmt.Fprintf(&b, "; relay %s: %v", a.Server, a.Err)
		case a.Verdict == Untried:
			fmt.Fprintf(&b, "; relay %s: left alone for now", a.Server)
		}
	}
	if len(e.Outcome.Relays) == 0 {
		b.WriteString("; no relay was tried")
	}
	return b.String()
}

// Unwrap gives the servers' answers.
func (e *SendError) Unwrap() []error {
	var errs []error
	for _, a := range append([]Attempt{e.Outcome.Destination}, e.Outcome.Relays...) {
		if a.Err != nil {
			errs = append(errs, a.Err)
		}
	}
	return errs
}

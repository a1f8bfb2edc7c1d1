package jetstream

import (
	"errors"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A verdict says whether to try once more after an error of the servers, or of the
// connection to them.
type verdict int

const (
	// final: it would only fail again.
	final verdict = iota
	// again: there was no answer, or none for now. The request may have been
	// carried out.
	again
	// conflict: nothing was stored, since a subject wasn't as expected.
	conflict
	// full: nothing was stored, since there is no room.
	full
	// tooMany: nothing was stored, since the server allows fewer messages in a
	// batch.
	tooMany
)

const codeBatchIncomplete, codeStoreFailed jetstream.ErrorCode = 10176, 10077

// verdicts are those on errors of the server. All other errors are final.
var verdicts = map[jetstream.ErrorCode]verdict{
	jetstream.JSErrCodeStreamWrongLastSequence: conflict,
	10164: conflict, // not decided yet which is the last
	10199: tooMany,

	10002: full, // the account's resources,
	10023: full, // the server's,
	10028: full, // its memory's
	10047: full, // or its disk's

	codeBatchIncomplete: again,
	10008:               again, // JetStream isn't available
	10009:               again, // not the leader
	10163:               again, // the last sequence isn't known yet
	10167:               again, // too many requests
	10210:               again, // too many batches at once

	// A cluster that is starting has too few nodes yet, and a node that is behind may
	// not know of a stream that is new.
	10004:                             again,
	10005:                             again,
	10118:                             again,
	jetstream.JSErrCodeStreamNotFound: again,
}

// lost are errors after which the connection doesn't come back by itself, or
// which say that the message is to blame.
var lost = []error{
	nats.ErrConnectionClosed, nats.ErrConnectionDraining, nats.ErrInvalidConnection,
	nats.ErrAuthorization, nats.ErrPermissionViolation, nats.ErrMaxPayload, nats.ErrBadSubject,
}

// saysNothing is for a batch that was refused because a message of it was, which
// the error doesn't say more about.
func saysNothing(err error) bool {
	var refused jetstream.JetStreamError
	return errors.As(err, &refused) && refused.APIError() != nil && refused.APIError().ErrorCode == codeBatchIncomplete
}

func verdictOn(err error) verdict {
	var said jetstream.JetStreamError
	switch {
	case errors.Is(err, errUnusable):
		return final
	case errors.As(err, &said) && said.APIError() != nil:
		refused := said.APIError()
		if refused.ErrorCode == codeStoreFailed && strings.Contains(refused.Description, "maximum") { // one code for all that goes wrong there
			return full
		}
		return verdicts[refused.ErrorCode]
	case slices.ContainsFunc(lost, func(final error) bool { return errors.Is(err, final) }):
		return final
	}
	return again
}

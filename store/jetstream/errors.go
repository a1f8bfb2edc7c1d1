package jetstream

import (
	"errors"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A verdict is what an error of the servers, or of the connection to them, says
// about trying once more.
type verdict int

const (
	// final: it would only fail again.
	final verdict = iota
	// again: there was no answer, or none for now. What was asked for may have
	// been done.
	again
	// conflict: nothing was stored, since a subject wasn't as expected.
	conflict
	// full: nothing was stored, since there is no room.
	full
	// tooMany: nothing was stored, since the server allows fewer messages in a
	// batch.
	tooMany
)

// What the server says, by the names that it has for it.
const (
	codeAccountResources   jetstream.ErrorCode = 10002
	codeIncomplete         jetstream.ErrorCode = 10004
	codeNoPeers            jetstream.ErrorCode = 10005
	codeNotAvailable       jetstream.ErrorCode = 10008
	codeNotLeader          jetstream.ErrorCode = 10009
	codeResources          jetstream.ErrorCode = 10023
	codeMemoryResources    jetstream.ErrorCode = 10028
	codeStorageResources   jetstream.ErrorCode = 10047
	codeStoreFailed        jetstream.ErrorCode = 10077
	codeStreamOffline      jetstream.ErrorCode = 10118
	codeSeqNotReady        jetstream.ErrorCode = 10163
	codeTooManyRequests    jetstream.ErrorCode = 10167
	codeBatchIncomplete    jetstream.ErrorCode = 10176
	codeBatchTooLarge      jetstream.ErrorCode = 10199
	codeTooManyInflight    jetstream.ErrorCode = 10210
	codeWrongLastUndecided jetstream.ErrorCode = 10164
	codeStreamNotFound                         = jetstream.JSErrCodeStreamNotFound
	codeWrongLast                              = jetstream.JSErrCodeStreamWrongLastSequence
)

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
	if errors.Is(err, errUnusable) {
		return final
	}
	var refused jetstream.JetStreamError
	if errors.As(err, &refused) && refused.APIError() != nil {
		return verdictOnRefusal(refused.APIError())
	}
	if slices.ContainsFunc(lost, func(final error) bool { return errors.Is(err, final) }) {
		return final
	}
	return again
}

func verdictOnRefusal(refused *jetstream.APIError) verdict {
	switch refused.ErrorCode {
	case codeWrongLast, codeWrongLastUndecided:
		return conflict
	case codeNotAvailable, codeNotLeader, codeBatchIncomplete, codeTooManyInflight, codeTooManyRequests, codeSeqNotReady,
		codeNoPeers, codeIncomplete, codeStreamOffline, // a cluster that is starting has too few of them yet
		codeStreamNotFound: // a node that is behind may say so of one that is new
		return again
	case codeAccountResources, codeResources, codeMemoryResources, codeStorageResources:
		return full
	case codeBatchTooLarge:
		return tooMany
	case codeStoreFailed: // one code for all that goes wrong there
		if strings.Contains(refused.Description, "maximum") {
			return full
		}
	}
	return final
}

package relay

import (
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/wire"
)

// A request goes through the stages in the order of its fields: each stage fills
// in some, for those that follow. In each file there is one:
//
//	gate.go       is it ours, allowed, and from a server that may? (pause.go: if
//	              there are too many, the answer comes later)
//	transfer.go   its body comes in, as far as there is memory
//	signature.go  which server signed it?
//	forwarder.go  it leaves mail (passing.go: another server's), or
//	retriever.go  it fetches mail (waits.go: once there is some), or
//	records.go    it brings or asks for where a server's mail goes, or
//	receipts.go   for mail that a server has handled
//	answer.go     the answer, or the error
//
// None of them names another one but answer.go; they all use memory.go.
type request struct {
	wire.SignedRequest              // without Content until the transfer
	from               address.From // as the log has it
	admission          admission    // asks the policy, at several stages
	isBusy             bool         // it is counted among those that are worked on
	route              wire.Route
	memory             *share // holds the body
	signer             spec.ServerName

	began time.Time
	held  time.Duration // it has waited for mail, or for its refusal

	w http.ResponseWriter // for its deadlines
}

// holder is the party that the work for the request is charged to. On a connection that
// counts for a server, its address doesn't.
func (q *request) holder() holder {
	name, _ := q.Claimed() // the gate has refused requests that have none
	if known := q.admission.asked.Known; known != "" {
		return holder{address.OfServer(string(known)), name}
	}
	return holder{q.from, name}
}

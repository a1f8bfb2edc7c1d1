package relay

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A retriever hands transactions out.
type retriever struct {
	store   store.Store
	metrics *metrics
}

// next acknowledges the entry in the request's body and returns the answer
// that holds what comes next. Only the server that the mailbox belongs to may
// ask.
func (r *retriever) next(ctx context.Context, route wire.Route, signer spec.ServerName, body []byte) (answer, error) {
	destination := route.Destination()
	if signer != destination {
		return answer{}, wire.Forbidden("only the server itself may fetch its transactions")
	}
	acknowledged, err := wire.ReadEntryID(body)
	if err != nil {
		return answer{}, err
	}
	if acknowledged > 0 {
		removed, err := r.store.Ack(ctx, destination, acknowledged)
		if err != nil {
			return answer{}, fmt.Errorf("relay: acknowledging an entry: %w", err)
		}
		r.metrics.acknowledge(removed)
	}
	entries, err := r.store.Next(ctx, destination, 0, 1, math.MaxInt64)
	if errors.Is(err, store.ErrEmpty) {
		return answer{head: []byte(wire.EmptyAnswer)}, nil
	}
	if err != nil {
		return answer{}, fmt.Errorf("relay: reading the next entry: %w", err)
	}
	e := &entries[0]
	head, tail := wire.AnswerAround(e.ID)
	return answer{head, wire.WithOrigin(e.Body, e.Origin), tail}, nil
}

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
func (r *retriever) next(ctx context.Context, route wire.Route, signer spec.ServerName, body []byte) ([]byte, error) {
	destination := route.Destination()
	if signer != destination {
		return nil, wire.Forbidden("only the server itself may fetch its transactions")
	}
	acknowledged, err := wire.ReadEntryID(body)
	if err != nil {
		return nil, err
	}
	if acknowledged > 0 {
		removed, err := r.store.Ack(ctx, destination, acknowledged)
		if err != nil {
			return nil, fmt.Errorf("relay: acknowledging an entry: %w", err)
		}
		r.metrics.acknowledge(removed)
	}
	entries, err := r.store.Next(ctx, destination, 0, 1, math.MaxInt64)
	if errors.Is(err, store.ErrEmpty) {
		return []byte(wire.EmptyAnswer), nil
	}
	if err != nil {
		return nil, fmt.Errorf("relay: reading the next entry: %w", err)
	}
	r.metrics.handOut(len(entries))
	e := &entries[0]
	transaction := wire.WithOrigin(e.Body, e.Origin)
	return wire.AppendAnswer(make([]byte, 0, len(transaction)+100), e.ID, transaction), nil
}

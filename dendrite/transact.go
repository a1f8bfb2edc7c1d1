package dendrite

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
)

// received has the homeserver process mail that a relay held.
func (r *Relay) received(ctx context.Context, got client.Received) error {
	return r.transact(ctx, got.Origin, got.TransactionID, got.Body)
}

// delivered has it process mail that others leave here for this server itself, which
// asks itself for nothing.
func (r *Relay) delivered(ctx context.Context, d relay.Delivery) error {
	_, err := r.Node.Direct(ctx, d.Origin, d.TransactionID, d.Body, func(ctx context.Context) error {
		return r.transact(ctx, d.Origin, d.TransactionID, d.Body)
	})
	return err
}

// transact has the homeserver process a transaction. Nil means that it is done with it,
// whether it accepted the PDUs or not.
func (r *Relay) transact(ctx context.Context, origin spec.ServerName, id gomatrixserverlib.TransactionID, body []byte) error {
	var t gomatrixserverlib.Transaction
	if err := json.Unmarshal(body, &t); err != nil {
		r.config.Logger.WithError(err).Warnf("A transaction of %s can't be decoded", origin)
		return nil // it never can be
	}
	t.Origin, t.TransactionID, t.Destination = origin, id, r.config.Identity.ServerName
	results, refusal := r.config.Transact(ctx, t)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("dendrite: a transaction of %s was cut short: %w", origin, err) // PDUs fail for that
	}
	if refusal != nil && refusal.Code >= http.StatusInternalServerError {
		return fmt.Errorf("dendrite: a transaction of %s failed with %d: %v", origin, refusal.Code, refusal.JSON)
	}
	if refusal != nil {
		r.config.Logger.Warnf("A transaction of %s was refused with %d: %v", origin, refusal.Code, refusal.JSON)
		return nil
	}
	if results == nil {
		return nil
	}
	for event, result := range results.PDUs {
		if result.Error != "" {
			r.config.Logger.Warnf("Event %s of %s wasn't accepted: %s", event, origin, result.Error)
		}
	}
	return nil
}

package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A forwarder takes transactions in.
type forwarder struct {
	store    store.Store
	limits   store.Limits
	lifetime time.Duration // negative: no end
	metrics  *metrics
}

// put stores the transaction that origin signed and returns the answer. The
// store has it on the disk by then.
func (f *forwarder) put(ctx context.Context, route wire.Route, origin spec.ServerName, body []byte) ([]byte, error) {
	content, err := wire.ReadContent(body)
	if err != nil {
		return nil, err
	}
	if content.HasOrigin && content.Origin != origin {
		return nil, wire.Forbidden(fmt.Sprintf("the transaction is from %q, the request was signed by %q", content.Origin, origin))
	}
	mail := store.Mail{
		Destination:   route.Destination(),
		Origin:        origin,
		TransactionID: route.TransactionID,
		Digest:        content.Digest,
		Body:          body,
	}
	if f.lifetime > 0 {
		mail.Expires = time.Now().Add(f.lifetime)
	}
	stored, err := f.store.Put(ctx, mail, f.limits)
	if errors.Is(err, store.ErrFull) {
		return nil, &wire.Error{
			Status: http.StatusInsufficientStorage, Code: wire.ErrorResourceLimitExceeded,
			Message: "there is no room for this transaction",
		}
	}
	if err != nil {
		return nil, fmt.Errorf("relay: storing a transaction: %w", err)
	}
	f.metrics.put(stored)
	return []byte(wire.SentAnswer), nil
}

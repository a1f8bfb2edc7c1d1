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
func (f *forwarder) put(ctx context.Context, route wire.Route, origin spec.ServerName, body []byte) (answer, error) {
	content, err := wire.ReadContent(body)
	if err != nil {
		return answer{}, err
	}
	if content.HasOrigin && content.Origin != origin {
		return answer{}, wire.Forbidden("the transaction's origin isn't the server that signed the request")
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
	if limit := f.largest(); limit > 0 && mail.Size() > limit {
		return answer{}, tooLarge(limit) // it wouldn't fit an empty mailbox
	}
	stored, err := f.store.Put(ctx, mail, f.limits)
	if errors.Is(err, store.ErrFull) {
		return answer{}, &wire.Error{
			Status: http.StatusInsufficientStorage, Code: wire.ErrorResourceLimitExceeded,
			Message: "there is no room for this transaction",
		}
	}
	if err != nil {
		return answer{}, fmt.Errorf("relay: storing a transaction: %w", err)
	}
	f.metrics.put(stored)
	return answer{head: []byte(wire.SentAnswer)}, nil
}

// largest is the largest mail that fits the limits, 0 if there are none.
func (f *forwarder) largest() (size int64) {
	for _, limit := range []int64{f.limits.Bytes, f.limits.OriginBytes, f.limits.StoreBytes} {
		if limit > 0 && (size == 0 || limit < size) {
			size = limit
		}
	}
	return size
}

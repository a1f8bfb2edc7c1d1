package relay

import (
	"context"
	"time"

	"github.com/matrixrelay/relay/wire"
)

// checkSignature is the third stage: it finds the server that signed a request.
func checkSignature(ctx context.Context, q *request, verifier *wire.Verifier, checks *checks, m *metrics) error {
	keyIsKnown := verifier.IsKeyKnown(&q.SignedRequest)
	return checks.run(ctx, q.memory, q.Body(), keyIsKnown, func(ctx context.Context) (err error) {
		began := time.Now()
		q.signer, err = verifier.Verify(ctx, &q.SignedRequest, began)
		if !keyIsKnown {
			m.lookedUp(began, err)
		}
		return err
	})
}

package relay

import (
	"context"
	"time"

	"github.com/matrixrelay/relay/wire"
)

// checkSignature is the third stage: it finds the server that signed a request.
func checkSignature(ctx context.Context, q *request, verifier *wire.Verifier) error {
	quick := func() bool { return verifier.IsKeyKnown(&q.SignedRequest) && q.Body().IsCanonical() }
	return q.memory.checking(ctx, int64(len(q.Content)), quick, func(ctx context.Context) (err error) {
		q.signer, err = verifier.Verify(ctx, &q.SignedRequest, time.Now())
		return err
	})
}

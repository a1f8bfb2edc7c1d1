package relay

import (
	"context"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

// claim is the fourth stage of a claim: the signer claims its mailbox with an invite.
func claim(ctx context.Context, q *request) (answer, error) {
	inviting, ok := q.admission.policy.(policy.Inviting)
	if !ok {
		return answer{}, wire.Unrecognized()
	}
	read, err := wire.ReadClaim(q.Content)
	if err != nil {
		return answer{}, err
	}
	if err := inviting.Claim(ctx, &q.admission.asked, read); err != nil {
		return answer{}, err
	}
	return answer{pieces: [][]byte{[]byte(wire.ClaimedAnswer)}}, nil
}

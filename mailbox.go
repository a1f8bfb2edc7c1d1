package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

// own is the fourth stage of requests about the signer's mailbox, but for its mail.
func own(ctx context.Context, q *request) (answer, error) {
	if q.route.Endpoint == wire.Mailbox && q.Method == http.MethodPut {
		return claim(ctx, q)
	}
	owning, ok := q.admission.policy.(policy.Owning)
	if !ok || owning.Owners() == nil {
		return answer{}, wire.Unrecognized()
	}
	owners, asked := owning.Owners(), &q.admission.asked
	switch {
	case q.route.Endpoint == wire.Mailbox:
		return answerWith(owners.Mailbox(ctx, asked))
	case q.Method == http.MethodGet:
		return answerWith(owners.Policy(ctx, asked))
	}
	return setPolicy(ctx, q, owners)
}

// claim has the signer claim its mailbox with an invite.
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

func setPolicy(ctx context.Context, q *request, owners *policy.Owners) (answer, error) {
	read, err := wire.ReadMailboxPolicy(q.Content)
	if err != nil {
		return answer{}, err
	}
	if err := owners.SetPolicy(ctx, &q.admission.asked, read); err != nil {
		return answer{}, err
	}
	return answer{pieces: [][]byte{[]byte(wire.PolicySetAnswer)}}, nil
}

// answerWith is the answer that has a value as JSON.
func answerWith(value any, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	body, err := json.Marshal(value)
	if err != nil {
		return answer{}, fmt.Errorf("relay: answer: %w", err)
	}
	return answer{pieces: [][]byte{body}}, nil
}

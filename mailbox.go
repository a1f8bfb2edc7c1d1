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
	owning, _ := q.admission.policy.(policy.Owning)
	var owners *policy.Owners
	if owning != nil {
		owners = owning.Owners()
	}
	isPut := q.Method == http.MethodPut
	if q.route.Endpoint == wire.Mailbox && isPut {
		return open(ctx, q, owners)
	}
	if owners == nil {
		return answer{}, wire.Unrecognized()
	}
	asked := &q.admission.asked
	switch {
	case q.route.Endpoint == wire.Mailbox:
		return answerWith(owners.Mailbox(ctx, asked))
	case q.route.Endpoint == wire.Leave:
		return leave(ctx, q, owners)
	case isPut:
		return setPolicy(ctx, q, owners)
	}
	return answerWith(owners.Policy(ctx, asked))
}

// open has the signer claim its mailbox with an invite, or come back to it.
func open(ctx context.Context, q *request, owners *policy.Owners) (answer, error) {
	back, ok, err := wire.ReadReturn(q.Content)
	if err != nil {
		return answer{}, err
	}
	if ok && owners != nil {
		return done(wire.ClaimedAnswer, owners.Return(ctx, &q.admission.asked, back))
	}
	inviting, ok := q.admission.policy.(policy.Inviting)
	if !ok {
		return answer{}, wire.Unrecognized()
	}
	claim, err := wire.ReadClaim(q.Content)
	if err != nil {
		return answer{}, err
	}
	return done(wire.ClaimedAnswer, inviting.Claim(ctx, &q.admission.asked, claim))
}

func leave(ctx context.Context, q *request, owners *policy.Owners) (answer, error) {
	leaving, err := wire.ReadLeaving(q.Content)
	if err != nil {
		return answer{}, err
	}
	return done(wire.LeftAnswer, owners.Leave(ctx, &q.admission.asked, leaving))
}

func setPolicy(ctx context.Context, q *request, owners *policy.Owners) (answer, error) {
	read, err := wire.ReadMailboxPolicy(q.Content)
	if err != nil {
		return answer{}, err
	}
	return done(wire.PolicySetAnswer, owners.SetPolicy(ctx, &q.admission.asked, read))
}

// done is the answer to a request that has changed something, unless it failed.
func done(body string, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	return answer{pieces: [][]byte{[]byte(body)}}, nil
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

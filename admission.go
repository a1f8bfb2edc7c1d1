package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

// An admission is the conversation with the policy about one request.
type admission struct {
	policy policy.Policy // or nil
	asked  policy.Request
	used   policy.Used
	on     *connection // or nil
}

// errPolicy is in all refusals by the policy.
var errPolicy = errors.New("relay: Config.Policy")

// arrived asks about a request of which nothing was read.
func (a *admission) arrived(r *http.Request) error {
	a.on = connectionOf(r, a.asked.Address)
	a.asked.Known = a.on.server()
	return a.ask(r.Context(), policy.Arrived)
}

// ask asks about a stage.
func (a *admission) ask(ctx context.Context, stage policy.Stage) error {
	if a.policy == nil {
		return nil
	}
	a.asked.Stage = stage
	if err := a.policy.Admit(ctx, &a.asked); err != nil {
		return fmt.Errorf("%w: %w", errPolicy, err)
	}
	return nil
}

// signed asks about a request that has a right signature and that many bytes.
func (a *admission) signed(ctx context.Context, bytes int64, room policy.Room) error {
	a.asked.Bytes, a.asked.Room = bytes, room
	err := a.ask(ctx, policy.Signed)
	if err == nil && a.asked.Member && a.asked.Endpoint != wire.SendRelay { // which others can repeat
		a.on.belongsToOrigin()
	}
	return err
}

// passedOn asks about the origin of mail that another server passes on. It is the last
// question about a request.
func (a *admission) passedOn(ctx context.Context, origin spec.ServerName) error {
	a.asked.PassedOn, a.asked.Origin = true, origin
	return a.ask(ctx, policy.Claimed)
}

// end tells the policy that the request is over.
func (a *admission) end() { a.asked.Done(a.used) }

package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// BenchmarkAdmit is the cost of a PUT for a claimed mailbox in all policies together, whose
// owner allows a thousand servers.
func BenchmarkAdmit(b *testing.B) {
	mail := memory.New(memory.Options{})
	defer func() { require.NoError(b, mail.Close()) }()
	rate := policy.Rate{PerSecond: 1 << 30, Burst: 1 << 40}
	shares := policy.Shares{Requests: rate, Bytes: rate, Stored: rate}
	open, err := policy.NewOpen(policy.OpenConfig{Store: mail})
	require.NoError(b, err)
	owners, err := policy.NewOwners(policy.OwnersConfig{Store: mail, Mode: open})
	require.NoError(b, err)
	p := policy.All(policy.NewLimits(policy.LimitsConfig{Address: shares, Name: shares}), owners)
	request := policy.Request{Address: netip.MustParseAddr("192.0.2.1")}
	claim := request
	claim.Endpoint, claim.Origin, claim.Destination, claim.Stage = wire.RelayTxn, "b", "b", policy.Signed
	require.NoError(b, p.Admit(b.Context(), &claim))
	said := wire.MailboxPolicy{Seq: 1, Strangers: &wire.Strangers{Entries: 1000, Bytes: 1 << 20}}
	for i := range wire.MaxPolicyNames - 1 {
		said.Allow = append(said.Allow, spec.ServerName(fmt.Sprint("server", i)))
	}
	state, err := owners.Mailbox(b.Context(), &claim)
	require.NoError(b, err)
	said.Mailbox = state.Mailbox
	require.NoError(b, owners.SetPolicy(b.Context(), &claim, said))
	b.ReportAllocs()
	for b.Loop() {
		r := request
		stages := [...]policy.Stage{policy.Arrived, policy.Claimed, policy.Signed}
		for _, stage := range stages {
			if r.Stage = stage; stage == policy.Claimed {
				r.Endpoint, r.Origin, r.Destination = wire.SendRelay, "a", "b"
			}
			if err := p.Admit(b.Context(), &r); err != nil {
				b.Fatal(err)
			}
		}
		r.Done(policy.Used{Received: 8000, Stored: 8000})
	}
}

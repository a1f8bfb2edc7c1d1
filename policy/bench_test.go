package policy_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// BenchmarkAdmit is the cost of a PUT for a claimed mailbox in all policies together.
func BenchmarkAdmit(b *testing.B) {
	mail := memory.New(memory.Options{})
	defer func() { require.NoError(b, mail.Close()) }()
	rate := policy.Rate{PerSecond: 1 << 30, Burst: 1 << 40}
	shares := policy.Shares{Requests: rate, Bytes: rate, Stored: rate}
	open, err := policy.NewOpen(policy.OpenConfig{Store: mail})
	require.NoError(b, err)
	p := policy.All(policy.NewLimits(policy.LimitsConfig{Address: shares, Name: shares}), open)
	request := policy.Request{Address: netip.MustParseAddr("192.0.2.1")}
	claim := request
	claim.Endpoint, claim.Origin, claim.Destination, claim.Stage = wire.RelayTxn, "b", "b", policy.Signed
	require.NoError(b, p.Admit(b.Context(), &claim))
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

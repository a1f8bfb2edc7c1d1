package relay_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

func TestInfo(t *testing.T) {
	for mode, change := range map[wire.Mode]func(*relay.Config){
		"": func(*relay.Config) {},
		wire.Closed: func(c *relay.Config) {
			c.Policy = policy.All(policy.NewLimits(policy.LimitsConfig{}), policy.NewClosed())
		},
		wire.Open: func(c *relay.Config) {
			var err error
			c.Policy, err = policy.NewOpen(policy.OpenConfig{Store: c.Store})
			require.NoError(t, err)
		},
		wire.Invite: func(c *relay.Config) {
			var err error
			c.Policy, err = policy.NewInvite(policy.InviteConfig{Store: c.Store, Key: make([]byte, policy.MinInviteKey)})
			require.NoError(t, err)
		},
	} {
		r := newRig(t, change)
		status, header, body := r.info(http.MethodGet)
		require.Equal(t, http.StatusOK, status, body)
		require.Equal(t, "public, max-age=3600", header.Get("Cache-Control"))
		require.Equal(t, "application/json", header.Get("Content-Type"))
		info, err := wire.ReadInfo([]byte(body))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode)
		require.Equal(t, mode == wire.Open, info.Unclaimed != nil)
		info.Mode, info.Unclaimed = "", nil
		require.Equal(t, wire.RelayInfo{
			Extensions: append(slices.Clone(wire.Extensions), wire.RecordsExtension, wire.ReceiptsExtension, wire.ListsExtension), MaxBodyBytes: relay.DefaultMaxBodyBytes, MaxBatch: relay.DefaultMaxBatch,
			MaxBatchBytes: relay.DefaultMaxBatchBytes, MaxWaitMS: 300_000, LifetimeMS: 30 * 24 * 3600 * 1000,
		}, info)
	}
}

// Only an answer that is the same for all may be kept on the way.
func TestInfoErrorsAreNotKept(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBodyBytes, c.MaxWait, c.Lifetime = -1, -1, -1 })
	_, _, body := r.info(http.MethodGet)
	info, err := wire.ReadInfo([]byte(body))
	require.NoError(t, err)
	require.Zero(t, info.MaxBodyBytes+info.MaxWaitMS+info.LifetimeMS, "there are no limits, and no waits")
	status, header, body := r.info(http.MethodPut)
	requireError(t, http.StatusMethodNotAllowed, "M_UNRECOGNIZED", status, body)
	require.Equal(t, "no-store", header.Get("Cache-Control"))
	r.server.SetEnabled(false)
	status, header, body = r.info(http.MethodGet)
	requireError(t, http.StatusNotFound, "M_UNRECOGNIZED", status, body)
	require.Equal(t, "no-store", header.Get("Cache-Control"))
}

// A relay that holds no answers doesn't say that it does, and no limit is none.
func TestInfoOfRelayThatHoldsNothing(t *testing.T) {
	for _, change := range []func(*relay.Config){
		func(c *relay.Config) { c.MaxWait, c.MaxBatch, c.MaxRecords, c.MaxReceipts = -1, -1, -1, -1 },
		func(c *relay.Config) { c.MaxWaiting, c.MaxBatch, c.MaxRecords, c.MaxReceipts = -1, -1, -1, -1 },
	} {
		_, _, body := newRig(t, change).info(http.MethodGet)
		info, err := wire.ReadInfo([]byte(body))
		require.NoError(t, err)
		require.NotContains(t, info.Extensions, wire.Waiting)
		require.Len(t, info.Extensions, len(wire.Extensions)-1+len([]string{wire.ListsExtension}))
		require.Zero(t, info.MaxWaitMS)
		require.Zero(t, info.MaxBatch)
	}
	require.Contains(t, wire.Extensions, wire.Waiting)
}

func (r *rig) info(method string) (status int, header http.Header, body string) {
	r.Helper()
	request, err := http.NewRequest(method, "matrix://"+relayName+wire.InfoURI, nil)
	require.NoError(r, err)
	status, body = r.do(request)
	response, err := r.network.RoundTrip(request)
	require.NoError(r, err)
	require.NoError(r, response.Body.Close())
	return status, response.Header, body
}

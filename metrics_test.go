package relay_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/sqlite"
)

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := newRig(t, func(c *relay.Config) { c.Registerer = registry })
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.c.ServerName, "1", 0, 100)))
	r.fetch(r.b)
	r.ask(r.a, r.b.ServerName, `{"entry_id":0}`)
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP relay_acknowledged_total Transactions acknowledged by their destination.
# TYPE relay_acknowledged_total counter
relay_acknowledged_total 1
# HELP relay_copies_total Transactions that were there already.
# TYPE relay_copies_total counter
relay_copies_total 1
# HELP relay_entries Transactions waiting to be fetched.
# TYPE relay_entries gauge
relay_entries 1
# HELP relay_requests_total Requests by endpoint and status.
# TYPE relay_requests_total counter
relay_requests_total{endpoint="relay_txn",status="200"} 2
relay_requests_total{endpoint="relay_txn",status="403"} 1
relay_requests_total{endpoint="send_relay",status="200"} 3
# HELP relay_stored_total Transactions taken in.
# TYPE relay_stored_total counter
relay_stored_total 2
`), "relay_requests_total", "relay_stored_total", "relay_copies_total", "relay_acknowledged_total", "relay_entries"))

	_, err := relay.New(relay.Config{ServerName: relayName, Store: r.store, Registerer: registry})
	require.Error(t, err, "two servers can't have the same registry")
	require.NoError(t, r.server.Close())
	second, err := relay.New(relay.Config{ServerName: relayName, Store: r.store, Registerer: registry})
	require.NoError(t, err, "a closed one leaves it")
	require.NoError(t, second.Close())
}

// Server.Activity counts the same, without a registry, and what the operator's pages need
// besides.
func TestActivity(t *testing.T) {
	s, err := sqlite.Open(filepath.Join(t.TempDir(), "relay.db"), sqlite.Options{})
	require.NoError(t, err)
	r := newRig(t, func(c *relay.Config) { c.Store, c.MaxWaiting = s, 7 })
	for range 2 { // the second is a copy
		require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	}
	lately := r.server.Activity()
	_, known := lately.LastAsked(r.b.ServerName)
	require.False(t, known)
	r.fetch(r.b)
	r.ask(r.a, r.c.ServerName, `{"entry_id":0}`)
	_, known = lately.LastAsked(r.b.ServerName)
	require.True(t, known)
	_, known = lately.LastAsked(r.c.ServerName)
	require.False(t, known, "another asked for its mail")

	got := lately.Report()
	require.Equal(t, 7, got.MaxWaiting)
	sum := got.Hour.Sum()
	require.Equal(t, []int64{1, 1, 1}, []int64{sum.Stored, sum.Acknowledged, sum.Refused})
	require.Greater(t, sum.StoredBytes, int64(100))
	require.Positive(t, sum.Commits)
	require.Positive(t, sum.MeanCommitUS())
	require.GreaterOrEqual(t, sum.LongestCommitUS, sum.MeanCommitUS())
	require.Len(t, got.Refusals, 1)
	refused := got.Refusals[0]
	require.Equal(t, []string{"relay_txn", "forbidden"}, []string{refused.Endpoint, refused.Reason})
	require.Equal(t, string(r.a.ServerName), refused.Origins[0].Name)
	require.Equal(t, string(r.c.ServerName), refused.Destinations[0].Name)
	require.NotEmpty(t, refused.Addresses[0].Name)

	require.NoError(t, r.server.Close())
	require.NoError(t, s.SetNotes(t.Context(), []store.Note{{Key: "x", Value: []byte("y")}}))
	require.Equal(t, sum.Commits, lately.Report().Hour.Sum().Commits, "a closed Server counts no more commits")
}

// The files of a store that has some show in the metrics.
func TestMetricsOfFiles(t *testing.T) {
	s, err := sqlite.Open(filepath.Join(t.TempDir(), "relay.db"), sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	registry := prometheus.NewRegistry()
	server, err := relay.New(relay.Config{ServerName: relayName, Store: s, Registerer: registry})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	_, err = s.Put(t.Context(), store.Mail{Destination: "b", Origin: "a", TransactionID: "1", Body: make([]byte, 10_000)}, store.Limits{})
	require.NoError(t, err)
	entries, err := s.Next(t.Context(), "b", 0, 1, 1)
	require.NoError(t, err)
	_, err = s.Ack(t.Context(), "b", entries[0].ID)
	require.NoError(t, err)
	sizes, err := s.Sizes(t.Context())
	require.NoError(t, err)
	require.Greater(t, sizes.Log, int64(10_000))
	families, err := registry.Gather()
	require.NoError(t, err)
	got := make(map[string]float64)
	for _, family := range families {
		got[family.GetName()] = family.GetMetric()[0].GetGauge().GetValue()
	}
	require.Equal(t, 1.0, got["relay_remembered_copies"])
	require.GreaterOrEqual(t, got["relay_store_file_bytes"], float64(sizes.File))
	require.GreaterOrEqual(t, got["relay_store_log_bytes"], float64(sizes.Log)) // checkups write, too
	commits, bytes := histogram(t, registry, "relay_store_commit_bytes")
	require.Positive(t, commits)
	require.GreaterOrEqual(t, bytes, 10_000.0) // and the notes of checkups
	_, calls := histogram(t, registry, "relay_store_commit_calls")
	require.GreaterOrEqual(t, calls, 1.0)
	_, took := histogram(t, registry, "relay_store_commit_duration_seconds")
	require.Positive(t, took)
}

// histogram returns how often something was observed, and the sum.
func histogram(t *testing.T, registry *prometheus.Registry, name string) (count uint64, sum float64) {
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == name {
			h := family.GetMetric()[0].GetHistogram()
			return h.GetSampleCount(), h.GetSampleSum()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0, 0
}

package nodemetrics_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/client/nodemetrics"
	"github.com/matrixrelay/relay/internal/metricdocs"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
)

var quiet = slog.New(slog.DiscardHandler)

// A Node with a relay that works, one that is away, and mail for two servers that are away.
func TestNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail, kept := memory.New(memory.Options{}), memory.New(memory.Options{})
		server, err := relay.New(relay.Config{ServerName: "good.example", Store: kept, Logger: quiet})
		require.NoError(t, err)
		network := relaytest.NewNetwork()
		network.Set("good.example", relaytest.Host{Handler: server})
		a, b, c := relaytest.NewNode("a"), relaytest.NewNode("b"), relaytest.NewNode("c")
		_, err = b.Federation(network).P2PSendTransactionToRelay(t.Context(), relaytest.User(a.ServerName), b.Transaction(a.ServerName, "1", 1, 100), "good.example")
		require.NoError(t, err)

		node, err := client.OpenNode(t.Context(), client.NodeConfig{
			Identity: a.SigningIdentity, Transport: network, Store: mail, Keys: relay.HexKeys{}, Logger: quiet,
			Handle: func(context.Context, client.Received) error { return nil },
		})
		require.NoError(t, err)
		require.NoError(t, node.SetRelays(t.Context(), a.ServerName, "good.example", "away.example"))
		require.NoError(t, node.SetRelays(t.Context(), b.ServerName, "other.example"))
		for id, to := range map[string]*relaytest.Node{"1": b, "2": b, "3": c} {
			made, err := client.NewTransaction(a.Transaction(to.ServerName, id, 1, 100))
			require.NoError(t, err)
			require.NoError(t, node.Enqueue(t.Context(), made))
		}
		began := time.Now()
		ended := make(chan error, 1)
		go func() { ended <- node.Run(t.Context()) }()
		time.Sleep(time.Hour)

		registry := prometheus.NewRegistry()
		registry.MustRegister(nodemetrics.New(node))
		require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP relay_node_destinations Destinations for which something waits, or may wait where there are more than 1,000.
# TYPE relay_node_destinations gauge
relay_node_destinations 2
# HELP relay_node_destinations_offline Destinations, among the first 1,000, that count as offline.
# TYPE relay_node_destinations_offline gauge
relay_node_destinations_offline 2
# HELP relay_node_online 1 if the Node asks others, 0 while it is offline.
# TYPE relay_node_online gauge
relay_node_online 1
# HELP relay_node_relay_fetched_total Transactions of a relay of this server that are dealt with.
# TYPE relay_node_relay_fetched_total counter
relay_node_relay_fetched_total{relay="away.example"} 0
relay_node_relay_fetched_total{relay="good.example"} 1
# HELP relay_node_waiting Transactions that wait for the first 1,000 destinations.
# TYPE relay_node_waiting gauge
relay_node_waiting 3
`), "relay_node_destinations", "relay_node_destinations_offline", "relay_node_online", "relay_node_relay_fetched_total", "relay_node_waiting"))
		require.InDelta(t, 3600, values(t, registry, "relay_node_oldest_seconds")[0], 1)
		attempts := values(t, registry, "relay_node_attempts_total")
		require.Equal(t, []bool{false, true, false}, []bool{attempts[0] > 0, attempts[1] > 2, attempts[2] > 0}, "delivered, failed, refused")
		requests := values(t, registry, "relay_node_relay_requests_total")
		require.Equal(t, []bool{true, false, false, true}, []bool{requests[0] > 0, requests[1] > 0, requests[2] > 0, requests[3] > 0},
			"failure and success of away.example, and of good.example")
		for name, relayName := range map[string]string{"success": "good.example", "failure": "away.example"} {
			at := only(t, registry, "relay_node_relay_"+name+"_timestamp_seconds", relayName)
			require.GreaterOrEqual(t, at, float64(began.Unix()))
			require.LessOrEqual(t, at, float64(time.Now().Unix()))
		}
		metricdocs.Compare(t, "../../docs/metrics.md", "A Node", metricdocs.Gathered(t, registry, "relay_node_"))

		require.NoError(t, node.Close())
		require.NoError(t, <-ended)
		require.NoError(t, mail.Close())
		families, err := registry.Gather()
		require.NoError(t, err, "nothing, where the store is closed")
		require.Empty(t, families)
		require.NoError(t, network.Close())
		require.NoError(t, server.Close())
		require.NoError(t, kept.Close())
	})
}

// values returns those of all series of a metric, in the order of their labels.
func values(t *testing.T, registry *prometheus.Registry, name string) (all []float64) {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == name {
				all = append(all, metric.GetGauge().GetValue()+metric.GetCounter().GetValue())
			}
		}
	}
	require.NotEmpty(t, all)
	return all
}

// only returns the value of a metric that has one series, for that relay.
func only(t *testing.T, registry *prometheus.Registry, name, relayName string) float64 {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == name {
			require.Len(t, family.GetMetric(), 1)
			metric := family.GetMetric()[0]
			require.Equal(t, relayName, metric.GetLabel()[0].GetValue())
			return metric.GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

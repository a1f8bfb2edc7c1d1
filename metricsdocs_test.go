package relay_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/metricdocs"
	"github.com/matrixrelay/relay/store/sqlite"
)

const metricsPage = "docs/metrics.md"

// The page lists the metrics, each with its type and labels, and no others.
func TestMetricsAreDocumented(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := newRig(t, func(c *relay.Config) {
		s, err := sqlite.Open(filepath.Join(t.TempDir(), "relay.db"), sqlite.Options{})
		require.NoError(t, err)
		c.Store, c.Registerer = s, registry
	})
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	metricdocs.Compare(t, metricsPage, "The relay", metricdocs.Gathered(t, registry, "relay_"))
}

// The page lists the reasons of refusals, each with its status.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile(metricsPage)
	require.NoError(t, err)
	_, table, found := strings.Cut(string(page), "| reason | status |")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	got := make(map[string]string)
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, " | "); len(cells) == 3 {
			got[strings.TrimPrefix(cells[0], "| ")] = cells[1]
		}
	}
	require.Equal(t, relay.Reasons(), slices.Sorted(maps.Keys(got)))
	for status, reason := range relay.StatusReasons() {
		require.Contains(t, got[reason], status)
	}
}

package relay_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/metricdocs"
	"github.com/matrixrelay/relay/internal/need"
)

// alerts returns the names and the expressions in contrib/alerts.yml, each on a line.
func alerts(t *testing.T) (names, expressions []string) {
	raw, err := os.ReadFile("contrib/alerts.yml")
	require.NoError(t, err)
	for line := range strings.Lines(string(raw)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "- alert: "); ok {
			names = append(names, name)
		}
		if expression, ok := strings.CutPrefix(strings.TrimSpace(line), "expr: "); ok {
			expressions = append(expressions, expression)
		}
	}
	require.NotEmpty(t, names)
	require.Len(t, expressions, len(names))
	return names, expressions
}

// panels returns the expressions in contrib/grafana.json, with values in place of its
// variables.
func panels(t *testing.T) (expressions []string) {
	raw, err := os.ReadFile("contrib/grafana.json")
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(raw, &dashboard))
	values := strings.NewReplacer("$__rate_interval", "5m", "$instance", "x")
	for _, panel := range dashboard.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			expressions = append(expressions, values.Replace(target.Expr))
		}
	}
	require.NotEmpty(t, expressions)
	return expressions
}

// The dashboard and the alerts name only metrics and reasons that there are.
func TestContribNamesMetrics(t *testing.T) {
	known := make(map[string]bool)
	for _, row := range metricdocs.Read(t, metricsPage, "") {
		if row.Type != "histogram" {
			known[row.Name] = true
			continue
		}
		for _, series := range []string{"_bucket", "_sum", "_count"} {
			known[row.Name+series] = true
		}
	}
	metric, reason := regexp.MustCompile(`\brelay_\w+`), regexp.MustCompile(`reason="(\w+)"`)
	_, expressions := alerts(t)
	for _, expression := range append(expressions, panels(t)...) {
		names := metric.FindAllString(expression, -1)
		require.NotEmpty(t, names, expression)
		for _, name := range names {
			require.True(t, known[name], "there is no %s", name)
		}
		for _, found := range reason.FindAllStringSubmatch(expression, -1) {
			require.Contains(t, relay.Reasons(), found[1])
		}
	}
}

// Prometheus takes the alerts, which fire when they should, and the expressions of the
// dashboard.
func TestContribWithPrometheus(t *testing.T) {
	promtool := need.Program(t, "promtool")
	var rules strings.Builder
	rules.WriteString("groups:\n- name: panels\n  rules:\n")
	for i, expression := range panels(t) {
		fmt.Fprintf(&rules, "  - {record: \"panel:%d\", expr: %q}\n", i, expression)
	}
	path := filepath.Join(t.TempDir(), "panels.yml")
	require.NoError(t, os.WriteFile(path, []byte(rules.String()), 0o600))
	for _, args := range [][]string{
		{"check", "rules", "contrib/alerts.yml", path}, {"test", "rules", "contrib/alerts_test.yml"},
	} {
		said, err := exec.Command(promtool, args...).CombinedOutput()
		require.NoError(t, err, "%s", said)
	}
}

// docs/operating.md says of each alert what to do, in their order.
func TestAlertsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("docs/operating.md")
	require.NoError(t, err)
	var documented []string
	for _, found := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, found[1])
	}
	names, _ := alerts(t)
	require.Equal(t, names, documented)
}

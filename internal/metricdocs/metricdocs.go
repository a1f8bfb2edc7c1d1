// Package metricdocs compares metrics with docs/metrics.md, which lists them all.
package metricdocs

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// A Row is a metric in a table of the page.
type Row struct{ Name, Type, Labels string }

// Read returns the rows below a heading, or all of them if it is empty. Path is that of
// the page.
func Read(t testing.TB, path, heading string) (rows []Row) {
	t.Helper()
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	in := heading == ""
	for line := range strings.Lines(string(page)) {
		if title, isHeading := strings.CutPrefix(line, "## "); isHeading && heading != "" {
			in = strings.TrimSpace(title) == heading
		}
		cells := strings.Split(line, "|")
		if !in || len(cells) != 6 || !strings.HasPrefix(line, "| `") {
			continue
		}
		for i := range cells {
			cells[i] = strings.ReplaceAll(strings.TrimSpace(cells[i]), "`", "")
		}
		rows = append(rows, Row{Name: cells[1], Type: cells[2], Labels: cells[3]})
	}
	require.NotEmpty(t, rows, "no table below %q", heading)
	return rows
}

// Gathered returns the metrics that have a series now and a name that begins so.
func Gathered(t testing.TB, from prometheus.Gatherer, prefix string) (rows []Row) {
	t.Helper()
	families, err := from.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), prefix) {
			continue
		}
		var labels []string
		for _, pair := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, pair.GetName())
		}
		rows = append(rows, Row{family.GetName(), strings.ToLower(family.GetType().String()), strings.Join(labels, ", ")})
	}
	return rows
}

// Compare has the rows below a heading be these, in the order of their names.
func Compare(t testing.TB, path, heading string, got []Row) {
	t.Helper()
	byName := func(a, b Row) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(got, byName)
	require.Equal(t, got, Read(t, path, heading), "the table below %q isn't that of the metrics, in the order of their names", heading)
}

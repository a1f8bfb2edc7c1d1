package main

import (
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/metricdocs"
)

// The program serves the metrics of which docs/metrics.md says so, and no others of ours.
func TestMetricsAreDocumented(t *testing.T) {
	const page = "../../docs/metrics.md"
	folder := t.TempDir()
	p := startIn(t, folder, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--name", string(relayName))
	get := func(url string) string {
		response, err := http.Get(url)
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return string(body)
	}
	get("http://" + p.address + "/")
	require.NotContains(t, get("http://"+p.metrics+"/metrics"), "relay_last_backup")
	tool(t, "backup", filepath.Join(folder, "copy.db"), "--db", filepath.Join(folder, "relay.db"))
	var got, want []string
	for _, found := range regexp.MustCompile(`(?m)^# TYPE (relay_\S+ \S+)$`).FindAllStringSubmatch(get("http://"+p.metrics+"/metrics"), -1) {
		got = append(got, found[1])
	}
	for _, row := range append(metricdocs.Read(t, page, "The relay"), metricdocs.Read(t, page, "The program")...) {
		want = append(want, row.Name+" "+row.Type)
	}
	slices.SortFunc(want, strings.Compare)
	require.Equal(t, want, got)
	p.stop()
}

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Help goes to stdout and is no failure; a wrong command line is one, and says how to
// get help.
func TestRoot(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"help"}} {
		status, stdout, stderr := runTool(t, args...)
		require.Equal(t, 0, status)
		require.Empty(t, stderr)
		for _, want := range []string{"serve ", "invite ", "completion ", "--json", "exit status"} {
			require.Contains(t, stdout, want)
		}
	}
	status, stdout, stderr := runTool(t, "srve")
	require.Equal(t, exitUsage, status)
	require.Empty(t, stdout)
	require.Equal(t, "relay: there is no command \"srve\"; did you mean serve?\nrelay --help explains the options\n", stderr)

	status, stdout, _ = runTool(t, "completion", "bash")
	require.Equal(t, 0, status)
	require.Contains(t, stdout, "__start_relay")
}

package relay_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNoSQLite builds a program that sets Config.Store with the tag that leaves
// SQLite out.
func TestNoSQLite(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds a program, which isn't built for the race detector")
	}
	const program, tag = "./testdata/nosqlite", "-tags=relay_nosqlite"
	require.Contains(t, output(t, "go", "list", "-deps", program), "modernc.org/sqlite\n")
	without := output(t, "go", "list", "-deps", tag, program)
	require.NotContains(t, without, "modernc.org/")
	require.NotContains(t, without, "relay/store/sqlite")
	require.Equal(t, strings.Join([]string{
		"without a store: relay: Config.Store is nil, and the build tag relay_nosqlite has left SQLite out",
		"with one: <nil>",
		"closed: <nil> <nil>",
		"",
	}, "\n"), output(t, "go", "run", tag, program))
}

func output(t *testing.T, program string, arguments ...string) string {
	t.Helper()
	var problems strings.Builder
	command := exec.Command(program, arguments...)
	command.Stderr = &problems
	out, err := command.Output()
	require.NoError(t, err, problems.String())
	return string(out)
}

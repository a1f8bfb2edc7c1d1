// Package dependencies keeps the table of docs/dependencies.md true.
package dependencies

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
)

const (
	table  = "../../docs/dependencies.md"
	module = "github.com/matrixrelay/relay"

	// Another Go makes programs of another size.
	tolerance = 0.1
)

// base has the imports of every program of the table: an embedder has them already.
var base = []string{"net/http", "github.com/matrix-org/gomatrixserverlib", "github.com/matrix-org/gomatrixserverlib/fclient"}

// A program is the subject of a row of the table.
type program struct {
	title, folder string // the folder of its module
	imports       string // below our module; none: the base alone
	tags          string
}

var programs = []program{
	{"nothing of ours", ".", "", ""},
	{"`wire`", ".", "/wire", ""},
	{"`client`, with `store/memory`", ".", "/client /store/memory", ""},
	{"`relay`, with `-tags relay_nosqlite`", ".", "/. /store/memory", "relay_nosqlite"},
	{"`relay`, with SQLite", ".", "/.", ""},
	{"`relay` and `client`, with SQLite", ".", "/. /client", ""},
	{"`dendrite`, with `-tags relay_nosqlite`", "dendrite", "/dendrite", "relay_nosqlite"},
	{"`relay`, with `store/postgres` and `-tags relay_nosqlite`", "store/postgres", "/. /store/postgres", "relay_nosqlite"},
	{"`relay`, with `store/jetstream` and `-tags relay_nosqlite`", "store/jetstream", "/. /store/jetstream", "relay_nosqlite"},
}

// A cost is the modules and the megabytes of a program.
type cost struct {
	modules   int
	megabytes float64
}

// Each module adds to a program as much as the table says, so that a dependency that
// makes it larger is noticed.
func TestTable(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds programs, which aren't built for the race detector")
	}
	if os.Getenv(need.Everything) == "" {
		t.Skipf("it builds %d programs: set %s", len(programs), need.Everything)
	}
	said := readTable(t)
	nothing := build(t, programs[0])
	var rows []string
	wrong := len(said) != len(programs)
	for _, p := range programs {
		added := build(t, p)
		if p.imports != "" {
			added.modules -= nothing.modules
			added.megabytes -= nothing.megabytes
		}
		rows = append(rows, fmt.Sprintf("| %s | %d | %.1f |", p.title, added.modules, added.megabytes))
		off := math.Abs(said[p.title].megabytes - added.megabytes)
		wrong = wrong || said[p.title].modules != added.modules || off > 0.1+tolerance*added.megabytes
	}
	require.False(t, wrong, "docs/dependencies.md should say\n%s", strings.Join(rows, "\n"))
}

func readTable(t *testing.T) map[string]cost {
	t.Helper()
	text, err := os.ReadFile(table)
	require.NoError(t, err)
	said := make(map[string]cost)
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 {
			continue
		}
		modules, err := strconv.Atoi(strings.TrimSpace(cells[1]))
		if err != nil { // the head of the table
			continue
		}
		megabytes, err := strconv.ParseFloat(strings.TrimSpace(cells[2]), 64)
		require.NoError(t, err)
		said[strings.TrimSpace(cells[0])] = cost{modules, megabytes}
	}
	return said
}

// build builds a program that uses its packages, in the module's own versions.
func build(t *testing.T, p program) cost {
	t.Helper()
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	require.NoError(t, os.WriteFile(source, []byte(mainOf(p)), 0o600))
	run(t, p.folder, "build", "-tags="+p.tags, "-ldflags=-s -w", "-o", binary, source)
	info, err := os.Stat(binary)
	require.NoError(t, err)
	listed := strings.Fields(run(t, p.folder, "list", "-tags="+p.tags, "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", source))
	slices.Sort(listed)
	others := slices.DeleteFunc(slices.Compact(listed), func(path string) bool {
		return path == module || strings.HasPrefix(path, module+"/")
	})
	return cost{len(others), float64(info.Size()) / 1e6}
}

// uses has something of each package stay in the program.
var uses = map[string]string{
	"/wire":            "new(wire.Verifier).Verify, wire.ParseURI",
	"/client":          "client.OpenNode",
	"/.":               "relay.New",
	"/store/memory":    "memory.New",
	"/dendrite":        "dendrite.Start",
	"/store/postgres":  "postgres.Open",
	"/store/jetstream": "jetstream.Open",
}

func mainOf(p program) string {
	var text strings.Builder
	text.WriteString("package main\n\nimport (\n\t\"fmt\"\n")
	for _, path := range base {
		fmt.Fprintf(&text, "\t%q\n", path)
	}
	for _, path := range strings.Fields(p.imports) {
		fmt.Fprintf(&text, "\t%q\n", strings.TrimSuffix(module+path, "/."))
	}
	text.WriteString(")\n\nfunc main() {\n\tfmt.Println(http.ListenAndServe, gomatrixserverlib.KeyRing{}, fclient.NewFederationClient)\n")
	for _, path := range strings.Fields(p.imports) {
		fmt.Fprintf(&text, "\tfmt.Println(%s)\n", uses[path])
	}
	text.WriteString("}\n")
	return text.String()
}

func run(t *testing.T, folder string, arguments ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", arguments...)
	command.Dir = filepath.Join("../..", folder)
	command.Stderr = t.Output()
	output, err := command.Output()
	require.NoError(t, err)
	return string(output)
}

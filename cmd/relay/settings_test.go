package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const settingsText = `
name = "relay.example"
db = "postgres://relay:secret@db.example/relay"
max-body = 100000
max-wait = "1m"
origin-share = 0.25
keys = "none"
pass-on = ["b.example", "c.example"]
signing-key = "relay.pem"
relays-of = ["b.example=r1,r2", "c.example=r1"]
proxies = ["10.0.0.0/8", "192.0.2.1"]
`

// printed are the settings that relay serve has with these arguments.
func printed(t *testing.T, args ...string) map[string]setting {
	t.Helper()
	status, stdout, stderr := runTool(t, append([]string{"serve", "--print-config", "--json"}, args...)...)
	require.Equal(t, 0, status, stderr)
	var all []setting
	require.NoError(t, json.Unmarshal([]byte(stdout), &all))
	found := make(map[string]setting)
	for _, one := range all {
		found[one.Name] = one
	}
	return found
}

func settingsFileOf(t *testing.T, text string) string {
	file := filepath.Join(t.TempDir(), "relay.toml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// The command line counts before the environment, that before the file, and that before
// the defaults. A list isn't mixed of several.
func TestSettings(t *testing.T) {
	file := settingsFileOf(t, settingsText)
	t.Setenv("RELAY_NAME", "env.example")
	t.Setenv("RELAY_MAX_BODY", "64KiB")
	t.Setenv("RELAY_AT", "b.example=localhost:1 c.example=localhost:2")
	got := printed(t, "--config", file, "--name", "line.example", "--pass-on", "b.example,c.example,d.example")
	for _, want := range []setting{
		{"name", "line.example", "command line"},
		{"max-body", "64KiB", "environment"},
		{"at", []any{"b.example=localhost:1", "c.example=localhost:2"}, "environment"},
		{"db", "postgres://xxxxx@db.example/relay", file + ", less the password"},
		{"max-wait", "1m0s", file},
		{"origin-share", "0.25", file},
		{"pass-on", []any{"b.example", "c.example", "d.example"}, "command line"},
		{"relays-of", []any{"b.example=r1", "b.example=r2", "c.example=r1"}, file},
		{"proxies", []any{"10.0.0.0/8", "192.0.2.1/32"}, file},
		{"listen", "127.0.0.1:9001", "default"},
		{"max-copies", "1000000", "default"},
		{"for", []any{}, "default"},
	} {
		require.Equal(t, want, got[want.Name])
	}
	require.NotContains(t, got, "print-config")

	t.Setenv("RELAY_CONFIG", file)
	require.Equal(t, setting{"keys", "none", file}, printed(t)["keys"])
}

// The printed settings are a file that gives the same ones.
func TestPrintedSettingsAreAFile(t *testing.T) {
	text := strings.Replace(settingsText, "relay:secret@", "", 1)
	before := printed(t, "--config", settingsFileOf(t, text))
	status, stdout, stderr := runTool(t, "serve", "--print-config", "--config", settingsFileOf(t, text))
	require.Equal(t, 0, status, stderr)
	after := printed(t, "--config", settingsFileOf(t, stdout))
	require.Len(t, after, len(before))
	for name, one := range before {
		require.Equal(t, one.Value, after[name].Value, name)
	}
}

// Other commands take from the file the settings that they have. Mistakes in the file and in the
// environment are told with their place, and end with the status for that.
func TestWrongSettings(t *testing.T) {
	key := filepath.Join(t.TempDir(), "invite.key")
	status, stdout, stderr := runTool(t, "invite", "--config", settingsFileOf(t, "name = 'a'\ninvite-key = '"+key+"'"))
	require.Equal(t, 0, status, stderr)
	require.True(t, strings.HasPrefix(stdout, "1-"), stdout)

	for text, want := range map[string]string{
		"names = 'x'":         `no option "names"`,
		"print-config = true": `no option "print-config"`,
		"name = ":             "relay.toml",
		"name = ['a', 'b']":   "name has one value",
		"max-body = '1 MB'":   "max-body",
		"at = [1]":            "list of something else",
		"[name]\na = 'b'":     "no string",
	} {
		status, _, stderr := runTool(t, "serve", "--print-config", "--config", settingsFileOf(t, text))
		require.Equal(t, exitUsage, status, stderr)
		require.Contains(t, stderr, want)
		require.Contains(t, stderr, "relay.toml")
	}
	t.Setenv("RELAY_MAX_BODY", "many")
	status, _, stderr = runTool(t, "serve", "--name", "relay")
	require.Equal(t, exitUsage, status)
	require.Contains(t, stderr, `RELAY_MAX_BODY: "many"`)
}

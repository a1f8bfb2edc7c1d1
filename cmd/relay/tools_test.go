package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

// tool runs a subcommand that must succeed, and returns its output.
func tool(t *testing.T, args ...string) string {
	t.Helper()
	status, stdout, stderr := runTool(t, args...)
	require.Equal(t, 0, status, "%s: %s", args, stderr)
	return stdout
}

// keyPair makes a key with relay keygen, and returns the file and the server's name.
func keyPair(t *testing.T) (file, name string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key.pem")
	var made struct {
		ServerName string `json:"server_name"`
	}
	require.NoError(t, json.Unmarshal([]byte(tool(t, "keygen", "--json", file)), &made))
	require.Len(t, made.ServerName, 64)
	return file, made.ServerName
}

// Transactions are left and fetched by hand, with keys that keygen made.
func TestSendAndFetch(t *testing.T) {
	p := start(t, "--db", inMemory)
	a, nameA := keyPair(t)
	b, nameB := keyPair(t)
	road := []string{"--relay", string(relayName), "--at", string(relayName) + "=" + p.address}
	asA, asB := append([]string{"--signing-key", a}, road...), append([]string{"--signing-key", b}, road...)

	require.Empty(t, tool(t, append([]string{"fetch"}, asB...)...))
	require.Contains(t, tool(t, append([]string{"send", "--to", nameB, "--id", "first"}, asA...)...), "relay has transaction first")
	file := filepath.Join(t.TempDir(), "transaction.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"pdus": [], "edus": [{"edu_type": "x", "content": {"large": 1e2}}]}`), 0o600))
	tool(t, append([]string{"send", "--to", nameB, file}, asA...)...)

	seen := tool(t, append([]string{"fetch"}, asB...)...)
	require.Equal(t, 2, strings.Count(seen, "\n"), seen)
	require.Contains(t, seen, `from "`+nameA+`", ID "first"`)
	require.NotContains(t, seen, "edu_type")
	require.Equal(t, 2, strings.Count(seen, "proof: right"), seen)
	require.Equal(t, 1, strings.Count(tool(t, append([]string{"fetch", "--limit", "1"}, asB...)...), "\n"))

	unseen := commandOf(os.Args[0], withInput, append([]string{"fetch", "--acknowledge"}, asB...))
	unseen.Stdin = strings.NewReader("n\n")
	said, err := unseen.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(said), "--yes doesn't ask")
	require.Equal(t, seen, tool(t, append([]string{"fetch"}, asB...)...), "it is still there")

	all := tool(t, append([]string{"fetch", "--acknowledge", "--bodies", "--json", "--limit", "1"}, asB...)...)
	var ids []string
	for line := range strings.Lines(all) {
		var one fetched
		require.NoError(t, json.Unmarshal([]byte(line), &one))
		require.Contains(t, string(one.Transaction), "edu_type")
		ids = append(ids, one.TransactionID)
	}
	require.Len(t, ids, 2)
	require.Equal(t, "first", ids[0])
	require.Contains(t, all, "1e2", "the bytes that were signed")
	require.Empty(t, tool(t, append([]string{"fetch"}, asB...)...))
	tool(t, append([]string{"send", "--to", nameB}, asA...)...)
	require.Equal(t, 1, strings.Count(tool(t, append([]string{"fetch", "--acknowledge", "--yes"}, asB...)...), "\n"))
	require.Empty(t, tool(t, append([]string{"fetch"}, asB...)...))
}

// The exit status says whether another server refused, or whether it may go later.
func TestToolStatus(t *testing.T) {
	key, name := keyPair(t)
	p := start(t, "--db", inMemory, "--mode", "closed", "--for", "somebody.example")
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer busy.Close()
	notJSON := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(notJSON, []byte("text"), 0o600))
	at := func(address string) []string {
		return []string{"send", "--signing-key", key, "--to", name, "--relay", "relay", "--at", "relay=" + address}
	}
	for _, test := range []struct {
		want string
		args []string
		code int
	}{
		{"M_FORBIDDEN", at(p.address), exitRefused},
		{"503", at(busy.Listener.Addr().String()), exitLater},
		{"refused", at(freeAddress(t)), exitLater},
		{"no JSON", append(at(p.address), notJSON), exitFailed},
		{"no such file", append(at(p.address), "nosuch"), exitFailed},
		{"exists", []string{"keygen", key}, exitFailed},
		{"--relay is required", []string{"fetch", "--signing-key", key}, exitUsage},
		{"--signing-key is required", []string{"fetch", "--relay", "relay"}, exitUsage},
		{"--to is required", []string{"send", "--relay", "relay", "--signing-key", key}, exitUsage},
		{"takes one argument", []string{"keygen"}, exitUsage},
		{"one FILE at most", []string{"send", "a", "b"}, exitUsage},
		{"--limit", []string{"fetch", "--relay", "relay", "--signing-key", key, "--limit", "0"}, exitUsage},
		{"--pdus", []string{"bench", "--relay", "relay", "--pdus", "51"}, exitUsage},
		{"are required", []string{"move", "--db", "x.db"}, exitUsage},
		{"into memory", []string{"move", "--move-from", "x.db", "--db", "memory:"}, exitUsage},
		{"no such file", []string{"move", "--move-from", "x.db", "--db", "y.db"}, exitFailed},
	} {
		status, stdout, stderr := runTool(t, test.args...)
		require.Equal(t, test.code, status, "%s: %s", test.args, stderr)
		require.Empty(t, stdout)
		require.Contains(t, stderr, test.want)
	}
}

// Mail is moved without a relay, and a relay on the new database hands it out.
func TestMoveCommand(t *testing.T) {
	from, to := database(t), database(t)
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	p := start(t, "--db", from)
	for _, id := range []string{"1", "2", "3"} {
		require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, id, 1, 300)))
	}
	p.stop()
	for range 2 { // again is harmless
		var done struct{ Entries int64 }
		require.NoError(t, json.Unmarshal([]byte(tool(t, "move", "--json", "--move-from", from, "--db", to)), &done))
		require.EqualValues(t, 3, done.Entries)
	}
	p = start(t, "--db", to)
	got, err := get(t, p.network(), b, 0)
	require.NoError(t, err)
	require.True(t, got.EntriesQueued)
}

// All that is sent arrives, and refusals are counted.
func TestBenchCommand(t *testing.T) {
	type results struct{ Put, Fetch *measured }
	result := func(args ...string) (r results) {
		p := start(t, append([]string{"--db", inMemory}, args...)...)
		printed := tool(t, "bench", "--json", "--relay", string(relayName), "--at", string(relayName)+"="+p.address,
			"--senders", "3", "--destinations", "2", "--each", "5", "--pdus", "1")
		require.NoError(t, json.Unmarshal([]byte(printed), &r))
		return r
	}
	r := result()
	require.EqualValues(t, 15, r.Put.Transactions)
	require.EqualValues(t, 15, r.Fetch.Transactions)
	require.Greater(t, r.Fetch.Bytes, int64(15*1000))
	require.Empty(t, r.Put.Failures)
	require.LessOrEqual(t, r.Put.MedianMS, r.Put.P99MS)

	r = result("--max-entries", "2", "--origin-share", "1")
	require.EqualValues(t, 4, r.Put.Transactions)
	require.EqualValues(t, 4, r.Fetch.Transactions)
	require.Len(t, r.Put.Failures, 1)
	for kind, count := range r.Put.Failures {
		require.True(t, strings.HasPrefix(kind, "507"), kind)
		require.EqualValues(t, 11, count)
	}
}

func TestVersion(t *testing.T) {
	var b build
	require.NoError(t, json.Unmarshal([]byte(tool(t, "version", "--json")), &b))
	require.NotEmpty(t, b.Version)
	require.True(t, strings.HasPrefix(b.Go, "go1."), b.Go)
	require.True(t, strings.HasPrefix(tool(t, "version"), "relay "+b.Version))
}

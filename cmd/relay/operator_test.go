package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
)

// toolJSON runs a subcommand that must succeed, and reads the JSON that it prints.
func toolJSON[T any](t *testing.T, args ...string) (result T) {
	t.Helper()
	printed := tool(t, append([]string{"--json"}, args...)...)
	require.NoError(t, json.Unmarshal([]byte(printed), &result), printed)
	return result
}

// An operator finds the server that fills a relay, removes its mail and blocks it, while
// the relay runs and, with --offline, when it doesn't.
func TestOperate(t *testing.T) {
	db := database(t)
	a, b, c := relaytest.NewNode("a"), relaytest.NewNode("b"), relaytest.NewNode("c")
	nameA, nameB := string(a.ServerName), string(b.ServerName)
	p := start(t, "--db", db)
	for _, id := range []string{"t1", "t2"} {
		require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, id, 1, 500)))
	}
	require.NoError(t, put(t, p.network(), c, c.Transaction(b.ServerName, "t3", 1, 300)))
	info, err := os.Stat(db + "-admin")
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	status := toolJSON[admin.Status](t, "status", "--db", db)
	require.EqualValues(t, 3, status.Servers.Entries)
	require.Equal(t, relayName, status.ServerName)
	require.EqualValues(t, relay.DefaultMaxStoreEntries, status.MaxEntries)
	require.EqualValues(t, relay.DefaultMaxStoreBytes, status.MaxBytes)
	require.Regexp(t, `3 transactions of 10000000, .* of 17\.2 GB`, tool(t, "status", "--db", db))
	require.Regexp(t, `last hour +3 transactions stored, 0 fetched, 0 requests refused\nwaiting +0 receivers of \d+`, tool(t, "status", "--db", db))
	boxes := toolJSON[[]admin.Mailbox](t, "mailboxes", "--db", db)
	require.NotNil(t, boxes[0].NotSince)
	require.Regexp(t, nameB+` +3 +\d+ +0 +not since 2\d\d\d-`, tool(t, "mailboxes", "--unfetched", "--db", db))
	require.Len(t, boxes, 1)
	require.EqualValues(t, 3, boxes[0].Entries)
	require.Contains(t, tool(t, "mailboxes", "--db", db), nameB)
	senders := toolJSON[[]admin.Sender](t, "senders", "--db", db)
	require.Equal(t, a.ServerName, senders[0].Origin)
	require.Less(t, strings.Index(tool(t, "senders", "--db", db), nameA), strings.Index(tool(t, "senders", "--db", db), string(c.ServerName)))

	entries := toolJSON[[]admin.Entry](t, "mailbox", nameB, "--db", db)
	require.Len(t, entries, 3)
	require.True(t, entries[0].Proven)
	require.Empty(t, entries[0].Body)
	text := tool(t, "mailbox", nameB, "--db", db, "--bodies", "--limit", "1")
	require.Contains(t, text, `"t1"`)
	require.Contains(t, text, "m.room.message")
	require.NotContains(t, text, `"t2"`)

	found := toolJSON[admin.Purged](t, "purge", "--db", db, "--origin", nameA, "--dry-run")
	require.EqualValues(t, 2, found.Entries)
	require.EqualValues(t, 2, toolJSON[admin.Purged](t, "purge", "--db", db, "--origin", nameA, "--yes").Entries)
	require.Len(t, toolJSON[[]admin.Entry](t, "mailbox", nameB, "--db", db), 1)

	tool(t, "block", nameA, "--db", db, "--reason", "spam")
	requireStatus(t, http.StatusForbidden, put(t, p.network(), a, a.Transaction(b.ServerName, "t4", 1, 300)))
	p.stop()
	_, err = os.Stat(db + "-admin")
	require.ErrorIs(t, err, os.ErrNotExist)

	blocked := toolJSON[[]policy.Block](t, "blocked", "--offline", "--db", db)
	require.Len(t, blocked, 1)
	require.Equal(t, "spam", blocked[0].Reason)
	tool(t, "unblock", nameA, "--offline", "--db", db)
	require.EqualValues(t, 1, toolJSON[admin.Verified](t, "verify", "--offline", "--db", db).Entries)
	p = start(t, "--db", db)
	require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, "t4", 1, 300)))

	for _, test := range []struct {
		want string
		args []string
		code int
	}{
		{"in use", []string{"status", "--offline", "--db", db}, exitFailed},
		{"no relay answers", []string{"status", "--db", "nosuch.db"}, exitLater},
		{"no such file", []string{"status", "--offline", "--db", "nosuch.db"}, exitFailed},
		{"--admin is required", []string{"status", "--db", inMemory}, exitUsage},
		{"isn't blocked", []string{"unblock", nameA, "--db", db}, exitFailed},
		{"at least one of", []string{"purge", "--db", db}, exitUsage},
		{"--origin is empty", []string{"purge", "--db", db, "--yes", "--mailbox", nameB, "--origin", ""}, exitUsage},
		{"--mailbox is empty", []string{"purge", "--db", db, "--yes", "--mailbox", "", "--origin", nameA}, exitUsage},
		{"--expires-within is empty", []string{"purge", "--db", db, "--yes", "--mailbox", nameB, "--expires-within", "1us"}, exitUsage},
		{"--expires-within is empty", []string{"purge", "--db", db, "--yes", "--mailbox", nameB, "--expires-within", none}, exitUsage},
		{"not a server name", []string{"mailbox", "in_valid", "--db", db}, exitUsage},
		{"M_INVALID_PARAM", []string{"block", "in_valid", "--db", db}, exitRefused},
	} {
		status, _, stderr := runTool(t, test.args...)
		require.Equal(t, test.code, status, "%s: %s", test.args, stderr)
		require.Contains(t, stderr, test.want)
	}
}

// With a token the interface is at an address, too.
func TestOperateWithToken(t *testing.T) {
	token, address := filepath.Join(t.TempDir(), "token"), freeAddress(t)
	p := start(t, "--db", inMemory, "--admin", address, "--admin-token", token)
	const clear = "the operator's token crosses the network unencrypted"
	require.NotContains(t, p.logged(), clear)
	require.Contains(t, start(t, "--db", inMemory, "--admin", ":0", "--admin-token", token).logged(), clear)
	require.Equal(t, relayName, toolJSON[admin.Status](t, "status", "--admin", address, "--admin-token", token).ServerName)
	require.NoError(t, os.WriteFile(token, []byte(strings.Repeat("x", admin.MinToken)), 0o600))
	status, _, stderr := runTool(t, "status", "--admin", address, "--admin-token", token)
	require.Equal(t, exitRefused, status, stderr)

	for here, want := range map[string]bool{
		"localhost:1": true, ":1": true, "0.0.0.0:1": true, "[::1]:1": true, "127.9.9.9:1": true,
		"192.0.2.1:1": false, "relay.example:1": false, "[2001:db8::1]:1": false, "localhost.example:1": false,
	} {
		require.Equal(t, want, isHere(here), here)
	}
	status, _, stderr = runTool(t, "status", "--admin", "relay.invalid:1", "--admin-token", token)
	require.Equal(t, exitUsage, status)
	require.Contains(t, stderr, "https://relay.invalid:1")

	for args, want := range map[string]string{
		"--admin " + address:                      "needs --admin-token",
		"--admin unix:":                           "needs the path",
		"--admin nonsense --admin-token " + token: "neither unix:PATH nor HOST:PORT",
	} {
		status, _, stderr := runToEnd(t, append([]string{"--name", "relay"}, strings.Fields(args)...)...)
		require.Equal(t, exitUsage, status)
		require.Contains(t, stderr, want)
	}
}

// Problems have an exit status of their own.
func TestProblems(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = admin.Status{Problems: []string{"The disk is full."}}
		if strings.Contains(r.URL.Path, "verify") {
			answer = admin.Verified{Entries: 7, Damaged: []admin.Damaged{{Mailbox: "b.example", SetAside: 2}}}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	defer server.Close()
	for command, want := range map[string]string{"status": "The disk is full.", "verify": "DAMAGED: b.example: 2 transactions"} {
		status, stdout, _ := runTool(t, command, "--admin", server.URL)
		require.Equal(t, exitProblem, status)
		require.Contains(t, stdout, want)
	}
}

// Health checks fail only where a restart helps.
func TestAlive(t *testing.T) {
	for _, one := range []admin.Status{{}, {Problems: []string{"The disk is full."}}, {Problems: []string{"It failed."}, MustRestart: true}} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(one) }))
		status, stdout, _ := runTool(t, "status", "--alive", "--admin", server.URL)
		require.Equal(t, one.MustRestart, status == exitProblem)
		require.Equal(t, !one.MustRestart, status == 0)
		for _, problem := range one.Problems {
			require.Contains(t, stdout, problem)
		}
		server.Close()
	}
	status, _, _ := runTool(t, "status", "--alive", "--db", "nosuch.db")
	require.Equal(t, exitLater, status)
}

// Only a yes is one.
func TestConfirm(t *testing.T) {
	for answer, yes := range map[string]bool{"y\n": true, " YES\n": true, "n\n": false, "\n": false, "": false, "yesterday\n": false} {
		c := new(cobra.Command)
		var asked strings.Builder
		c.SetIn(strings.NewReader(answer))
		c.SetErr(&asked)
		err := confirm(c, "Really?")
		require.Equal(t, yes, err == nil, "%q", answer)
		require.Contains(t, asked.String(), "Really?")
	}
}

// A relay that hangs may answer later, and isn't one that doesn't run.
func TestRelayThatHangs(t *testing.T) {
	err := explainUnanswered("unix:relay.db-admin", fmt.Errorf("admin: %w", &url.Error{Op: "Get", URL: "http://relay", Err: context.DeadlineExceeded}))
	require.ErrorContains(t, err, "doesn't answer in time")
	require.Equal(t, exitLater, statusOf(err))
	ended := &url.Error{Op: "Get", URL: "http://relay", Err: context.Canceled}
	require.Equal(t, ended, explainUnanswered("unix:relay.db-admin", ended))
}

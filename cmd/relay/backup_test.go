package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/relaytest"
)

// A backup of a relay that runs comes up elsewhere, and the relay knows of it.
func TestBackupCommand(t *testing.T) {
	db, file := database(t), filepath.Join(t.TempDir(), "copy.db")
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	p := start(t, "--db", db)
	require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, "t1", 1, 500)))
	require.Regexp(t, `(?m)^backup +none was made$`, tool(t, "status", "--db", db))
	began := time.Now().Truncate(time.Second)
	require.NoError(t, os.WriteFile(file+partSuffix, []byte("left by a crash"), 0o600))
	result := toolJSON[struct{ Bytes int64 }](t, "backup", file, "--db", db)
	require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, "t2", 1, 500)))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, result.Bytes, info.Size())
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.False(t, toolJSON[admin.Status](t, "status", "--db", db).LastBackup.Before(began))
	require.Regexp(t, `(?m)^backup +20\S+ \S+ UTC, \S+ ago$`, tool(t, "status", "--db", db))
	status, _, stderr := runTool(t, "backup", file, "--db", db)
	require.Equal(t, exitFailed, status)
	require.Contains(t, stderr, "file already exists")
	p.stop()

	again := filepath.Join(t.TempDir(), "copy.db")
	tool(t, "backup", again, "--offline", "--db", db)
	requireEntries(t, again, 2)
	status, _, stderr = runTool(t, "backup", again+"2", "--offline", "--db", filepath.Join(t.TempDir(), "nosuch.db"))
	require.Equal(t, exitFailed, status)
	require.Contains(t, stderr, "no such file")
	for _, folder := range []string{filepath.Dir(db), filepath.Dir(file), filepath.Dir(again)} {
		left, err := filepath.Glob(filepath.Join(folder, "*-[bp]a*"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
	elsewhere := database(t)
	tool(t, "restore", file, "--db", elsewhere)
	requireEntries(t, elsewhere, 1)

	p = start(t, "--db", inMemory, "--admin", "unix:"+db+"-admin")
	status, _, stderr = runTool(t, "backup", again+"2", "--admin", "unix:"+db+"-admin")
	require.Equal(t, exitRefused, status)
	require.Contains(t, stderr, "makes no backups")
	p.stop()
}

// A copy that is cut off on the way leaves no file, and isn't taken for a backup.
func TestBackupCommandIsCutOff(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/status") {
			_, _ = fmt.Fprint(w, "{}")
			return
		}
		asked.Add(1)
		if !strings.HasSuffix(r.URL.Path, "/backup") {
			t.Errorf("it says %s", r.URL)
		}
		w.Header().Set("Relay-Backup-Began", "2026-01-02T03:04:05Z")
		w.Header().Set("Content-Length", "1000")
		_, _ = fmt.Fprint(w, strings.Repeat("x", 999))
	}))
	defer server.Close()
	folder := t.TempDir()
	status, _, stderr := runTool(t, "backup", filepath.Join(folder, "copy.db"), "--admin", server.URL)
	require.Equal(t, exitFailed, status)
	require.Contains(t, stderr, "the copy ends after 999 bytes of 1000")
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, left)

	status, _, stderr = runTool(t, "backup", filepath.Join(folder, "nosuch", "copy.db"), "--admin", server.URL)
	require.Equal(t, exitFailed, status)
	require.Contains(t, stderr, "no such file")
	require.EqualValues(t, 1, asked.Load(), "before the relay has worked for it")
}

// A slowOperator takes its time for a backup.
type slowOperator struct{ admin.Operator }

func (slowOperator) Status(context.Context) (*admin.Status, error) {
	return &admin.Status{Files: &admin.Files{Database: 5_000_000_000}}, nil
}

func (slowOperator) Backup(context.Context) (*admin.Copy, error) {
	time.Sleep(90*time.Second + time.Millisecond)
	return &admin.Copy{Size: 7}, nil
}

// While the relay copies its database, the operator sees that it does: how large it is, and
// for how long that has taken.
func TestBackupShowsTheCopying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shown, said bytes.Buffer
		c := new(cobra.Command)
		c.SetErr(&said)
		copied, err := relayCopies(t.Context(), c, slowOperator{}, &progress{out: &shown})
		require.NoError(t, err)
		require.EqualValues(t, 7, copied.Size)
		require.Contains(t, shown.String(), "the relay copies its database, 5.0 GB: 0s so far")
		require.Contains(t, shown.String(), "5.0 GB: 1m30s so far")
		require.Empty(t, said.String())
		_, err = relayCopies(t.Context(), c, slowOperator{}, &progress{})
		require.NoError(t, err)
		require.Equal(t, "the relay copies its database, 5.0 GB, and then hands the copy out\n", said.String())
	})
}

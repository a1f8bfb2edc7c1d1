package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A command that was given a wrong path makes nothing, there or anywhere beside it.
func TestMistypedPaths(t *testing.T) {
	_, backup, _ := filledDatabase(t)
	folder := t.TempDir()
	missing, text := filepath.Join(folder, "nosuch.db"), filepath.Join(folder, "text.db")
	require.NoError(t, os.WriteFile(text, []byte("a text of somebody"), 0o600))
	for _, args := range [][]string{
		{"repair", "--db", missing}, {"repair", "--db", text},
		{"restore", missing, "--db", filepath.Join(folder, "new.db")}, {"restore", text, "--db", filepath.Join(folder, "new.db")},
		{"restore", backup, "--db", text}, {"restore", backup, "--db", filepath.Join(folder, "nosuch", "new.db")},
		{"export", "--db", missing}, {"export", "--db", text}, {"import", "--db", text},
		{"move", "--move-from", missing, "--db", filepath.Join(folder, "new.db")},
		{"move", "--move-from", text, "--db", filepath.Join(folder, "new.db")},
		{"backup", filepath.Join(folder, "backup.db"), "--db", missing},
		{"backup", filepath.Join(folder, "backup.db"), "--offline", "--db", missing},
		{"backup", filepath.Join(folder, "backup.db"), "--offline", "--db", text},
		{"status", "--offline", "--db", text}, {"verify", "--offline", "--db", missing},
		{"serve", "--name", "relay", "--listen", "127.0.0.1:0", "--db", text},
		{"serve", "--name", "relay", "--listen", "127.0.0.1:0", "--move-from", missing, "--db", filepath.Join(folder, "new.db")},
	} {
		status, _, stderr := runTool(t, args...)
		require.NotZero(t, status, "%s: %s", args, stderr)
		left, err := os.ReadDir(folder)
		require.NoError(t, err)
		require.Len(t, left, 1, "%s: %v: %s", args, left, stderr)
	}
}

//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/freeport"
	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/relaytest"
)

// The commands of docs/engines.md make backups and bring them back, and entry IDs go on.
func TestEnginesPage(t *testing.T) {
	fences := shellFences(t, "../../docs/engines.md")
	require.Len(t, fences, 4)
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.New(t)
		r := newOperated(t)
		r.path = server.Bin() + ":" + r.path
		db := server.Database(t)
		r.options = []string{"--db", db}
		for i, fence := range fences {
			fences[i] = strings.ReplaceAll(fence, "postgres://relay@db.example/relay", "'"+db+"'")
		}
		r.requireSetBack(fences[0], fences[1])
	})
	t.Run("nats", func(t *testing.T) {
		r := newOperated(t)
		port := freeport.Find(t, 1)[0]
		config := fmt.Sprintf("listen: \"127.0.0.1:%d\"\njetstream { store_dir: nats }\n", port)
		require.NoError(t, os.WriteFile(filepath.Join(r.folder, "lib", "nats.conf"), []byte(config), 0o600))
		r.options = []string{"--db", fmt.Sprintf("nats://127.0.0.1:%d", port), "--nats-server", "nats.conf"}
		r.requireSetBack(fences[2], fences[3])
		require.DirExists(t, filepath.Join(r.folder, "lib", "nats-before"))
	})
}

// requireSetBack has a backup made and brought back.
func (r *operatedRelay) requireSetBack(backup, restore string) {
	r.start()
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	leave := func(id string) {
		require.NoError(r, put(r, r.running.network(), a, a.Transaction(b.ServerName, id, 1, 100)))
	}
	leave("before")
	r.run(backup)
	leave("lost")
	before, err := get(r, r.running.network(), b, 0)
	require.NoError(r, err)
	lost, err := get(r, r.running.network(), b, before.EntryID)
	require.NoError(r, err)
	require.True(r, lost.EntriesQueued)
	r.run(restore)
	leave("after")
	got, err := get(r, r.running.network(), b, 0)
	require.NoError(r, err)
	require.Equal(r, before, got, "it was acknowledged after the backup")
	got, err = get(r, r.running.network(), b, before.EntryID)
	require.NoError(r, err)
	require.True(r, got.EntriesQueued)
	require.Greater(r, got.EntryID, lost.EntryID, "an old acknowledgement would remove it")
	r.running.stop()
}

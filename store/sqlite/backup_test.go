package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// heavy is mail of 16 KiB.
func heavy(n int) store.Mail {
	m := mail(n)
	m.Body = bytes.Repeat([]byte{byte(n)}, 16<<10)
	return m
}

// A backup that is made while mail comes and goes is whole, has all that was there before
// it, and goes on with IDs that the store hasn't given.
func TestBackup(t *testing.T) {
	folder := t.TempDir()
	// A log that is to start anew every megabyte.
	s, err := Open(filepath.Join(folder, "relay.db"), Options{checkpointBytes: 1 << 18, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	const before = 150
	for n := range before {
		put(t, s, heavy(n))
	}
	require.NoError(t, s.SetNotes(t.Context(), []store.Note{{Key: "k", Value: []byte("v")}}))
	var isDone atomic.Bool
	var meanwhile atomic.Int64
	var busy sync.WaitGroup
	for worker := range 4 {
		busy.Go(func() {
			for n := worker; !isDone.Load(); n += 4 {
				m := heavy(before + n)
				m.Destination = "c"
				put(t, s, m)
				meanwhile.Add(1)
				if entries, err := s.Next(t.Context(), "c", 0, 2, 1<<20); err == nil {
					_, err = s.Ack(t.Context(), "c", entries[0].ID)
					require.NoError(t, err)
				}
			}
		})
	}
	var copies []string
	for i := range 2 {
		path := filepath.Join(folder, fmt.Sprint("copy ?#%", i))
		require.NoError(t, s.Backup(t.Context(), path))
		copies = append(copies, path)
	}
	isDone.Store(true)
	busy.Wait()
	require.Positive(t, meanwhile.Load())
	last := mail(1_000_000)
	put(t, s, last)
	given, err := s.Next(t.Context(), "b", 0, 1000, 1<<30)
	require.NoError(t, err)
	found, err := filepath.Glob(filepath.Join(folder, "copy*"))
	require.NoError(t, err)
	require.Equal(t, copies, found, "nothing else is left")
	for _, path := range copies {
		requireRestored(t, path, given)
	}
}

// requireRestored brings a backup up elsewhere. Given are the entries of the mailbox b, of
// which the last wasn't there yet.
func requireRestored(t *testing.T, path string, given []store.Entry) {
	t.Helper()
	restored := filepath.Join(t.TempDir(), "relay.db")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(restored, raw, 0o600))
	s := open(t, restored)
	var verdict string
	require.NoError(t, s.writer.conn.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict))
	require.Equal(t, "ok", verdict)
	got, err := s.Next(t.Context(), "b", 0, 1000, 1<<30)
	require.NoError(t, err)
	require.Len(t, got, len(given)-1)
	for i := range got {
		require.Equal(t, given[i].ID, got[i].ID)
		require.Equal(t, given[i].Body, got[i].Body)
	}
	notes, err := s.Notes(t.Context(), "k", "", 1)
	require.NoError(t, err)
	require.Len(t, notes, 1)
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	var entries int64
	require.NoError(t, s.writer.conn.QueryRowContext(t.Context(), "SELECT count(*) FROM entry WHERE state = 0").Scan(&entries))
	require.Equal(t, entries, usage.Entries)
	put(t, s, mail(2_000_000))
	got, err = s.Next(t.Context(), "b", got[len(got)-1].ID, 1, 1<<30)
	require.NoError(t, err)
	require.Greater(t, got[0].ID, given[len(given)-1].ID, "an old acknowledgement would remove it")
}

// A backup takes no other file's place.
func TestBackupOverwritesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	s := open(t, path)
	put(t, s, mail(1))
	for _, taken := range []string{path, path + "-wal", path + "-lock"} {
		require.ErrorIs(t, s.Backup(t.Context(), taken), fs.ErrExist)
	}
	require.NoError(t, s.Failure())
	require.ErrorIs(t, s.Backup(t.Context(), filepath.Join(path+"-nowhere", "copy")), fs.ErrNotExist)
	put(t, s, mail(2))
}

// Neither an end of the context nor Close leaves anything of a backup.
func TestBackupEndsEarly(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "copy")
	s := openQuietly(t, filepath.Join(folder, "relay.db"), Options{backupRest: 1_000_000})
	for n := range 150 {
		put(t, s, heavy(n))
	}
	canceled, cancel := context.WithCancel(t.Context())
	for _, c := range []struct {
		end  func()
		ctx  context.Context
		want error
	}{{cancel, canceled, context.Canceled}, {func() { require.NoError(t, s.Close()) }, t.Context(), store.ErrClosed}} {
		require.NoError(t, s.backups.Take(t.Context())) // another one is running
		outcome := make(chan error, 1)
		go func() { outcome <- s.Backup(c.ctx, path) }()
		s.backups.Give()
		until(t, func() bool { return hasMore(path+partSuffix, -1) })
		c.end()
		require.ErrorIs(t, <-outcome, c.want)
		require.NoFileExists(t, path)
		require.NoFileExists(t, path+partSuffix)
	}
	require.ErrorIs(t, s.Backup(t.Context(), path), store.ErrClosed)
}

// until waits for a file to be as it is wanted.
func until(t *testing.T, isSo func() bool) {
	t.Helper()
	for !isSo() {
		time.Sleep(100 * time.Microsecond)
	}
}

// hasMore reports whether there is a file, with more than so many bytes.
func hasMore(path string, bytes int64) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > bytes
}

// A backup doesn't rest any more once the log is long.
func TestBackupBesideLongLog(t *testing.T) {
	folder := t.TempDir()
	s := openQuietly(t, filepath.Join(folder, "relay.db"), Options{backupRest: 1_000_000, backupLog: 1})
	for n := range 150 {
		put(t, s, heavy(n))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a single rest is nearly that long
	defer cancel()
	require.NoError(t, s.Backup(ctx, filepath.Join(folder, "copy")))
}

// A store that can't trust its disk makes no backup, which might lack mail.
func TestBackupOfDistrusted(t *testing.T) {
	folder := t.TempDir()
	s := open(t, filepath.Join(folder, "relay.db"))
	s.trust.Lose(errors.New("the disk is strange"))
	require.ErrorIs(t, s.Backup(t.Context(), filepath.Join(folder, "copy")), store.ErrReopen)
	require.NoFileExists(t, filepath.Join(folder, "copy"))
}

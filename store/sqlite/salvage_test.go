package sqlite

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func openQuietly(t *testing.T, path string, options Options) *Store {
	t.Helper()
	options.Logger = slog.New(slog.DiscardHandler)
	s, err := Open(path, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// A repair without a loss leaves the file of an earlier one with a loss.
func TestDamagedFileOutlivesOtherRepairs(t *testing.T) {
	path, entries := filled(t, 5, 100)
	require.NoError(t, os.WriteFile(path+damagedSuffix, []byte("of an earlier repair"), 0o600))
	editPages(t, path, func(n int, p *page) bool { p[0] = 'x'; return n == 1 })
	s := openQuietly(t, path, Options{})
	require.Equal(t, entries, holds(t, s, "b"))
	require.FileExists(t, path+damagedSuffix)
}

// A clock that was lost makes no mail expire, however far ahead the machine's is.
func TestClockIsLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	s := openQuietly(t, path, Options{SweepInterval: time.Hour})
	m := mail(1)
	m.Lifetime = 30 * 24 * time.Hour
	put(t, s, m)
	require.NoError(t, s.Close())
	editPages(t, path, func(_ int, p *page) bool {
		cells, _ := p.cells(0)
		if p[0] != tableLeaf || len(cells) != 1 || len(decode(cells[0].local)) != 8 {
			return false
		}
		p[pageSize-1] ^= 1
		return true
	})
	years := func() time.Time { return time.Now().Add(3 * 365 * 24 * time.Hour) }
	s = openQuietly(t, path, Options{machineTime: years})
	got, err := s.Next(context.Background(), "b", 0, 1, 1)
	require.NoError(t, err)
	require.Greater(t, got[0].Lifetime, 24*time.Hour)
}

package move

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/store/sqlite"
	"github.com/matrixrelay/relay/store/storetest"
)

// TestStore has the suite meet a move with nothing in the old store, and one
// where mail comes into the old store all the time and is moved by the calls that
// read it.
func TestStore(t *testing.T) {
	t.Run("done", func(t *testing.T) { storetest.Run(t, memoryPlace(done)) })
	t.Run("under way", func(t *testing.T) { storetest.Run(t, sqlitePlace(underWay)) })
}

// done opens the two as anybody would.
func done(tb testing.TB, from, to store.Store, retention time.Duration) store.Store {
	s, err := Open(tb.Context(), from, to, Options{Retention: retention, Logger: quiet})
	require.NoError(tb, err)
	return s
}

// underWay never gets done.
func underWay(tb testing.TB, from, to store.Store, retention time.Duration) store.Store {
	s := newStore(from, to, Options{Retention: retention, Logger: quiet})
	require.NoError(tb, s.begin(tb.Context()))
	s.stop = func() {} // there is no mover
	return detouring{s}
}

// detouring puts all mail into the old store, though that isn't needed. The
// limits of origins aren't exact then.
type detouring struct{ *Store }

func (d detouring) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if limits.OriginEntries > 0 || limits.OriginBytes > 0 {
		return d.Store.Put(ctx, mail, limits)
	}
	if known, err := isKnown(ctx, d.to, mail); known || err != nil {
		return false, err
	}
	return d.putBeside(ctx, d.from, d.to, mail, limits)
}

var quiet = slog.New(slog.DiscardHandler)

type opener func(tb testing.TB, from, to store.Store, retention time.Duration) store.Store

func memoryPlace(open opener) func(testing.TB) storetest.Place {
	return func(testing.TB) storetest.Place {
		return storetest.Place{Volatile: true, Open: func(tb testing.TB, retention time.Duration) store.Store {
			options := memory.Options{Retention: retention}
			from := memory.New(options)
			time.Sleep(2 * time.Millisecond) // see store.FirstID
			return open(tb, from, memory.New(options), retention)
		}}
	}
}

func sqlitePlace(open opener) func(testing.TB) storetest.Place {
	return func(tb testing.TB) storetest.Place {
		dir := tb.TempDir()
		return storetest.Place{
			Open: func(tb testing.TB, retention time.Duration) store.Store {
				return open(tb, openSQLite(tb, dir, "from", retention), openSQLite(tb, dir, "to", retention), retention)
			},
			Abilities: storetest.Abilities{Notes: true, Failing: true, Measured: true, Managed: true},
			Damage: map[string]func(testing.TB, spec.ServerName, int64){
				"body": func(tb testing.TB, _ spec.ServerName, id int64) { damage(tb, filepath.Join(dir, "to"), id) },
			},
		}
	}
}

func openSQLite(tb testing.TB, dir, name string, retention time.Duration) store.Store {
	s, err := sqlite.Open(filepath.Join(dir, name), sqlite.Options{
		Retention: retention, SweepInterval: 100 * time.Millisecond, Logger: quiet,
	})
	require.NoError(tb, err)
	return s
}

// damage makes an entry unreadable.
func damage(tb testing.TB, path string, id int64) {
	db, err := sql.Open("sqlite", path)
	require.NoError(tb, err)
	result, err := db.Exec(`UPDATE entry SET body = x'7b00' WHERE id = ?`, id)
	require.NoError(tb, err)
	n, err := result.RowsAffected()
	require.NoError(tb, err)
	require.EqualValues(tb, 1, n)
	require.NoError(tb, db.Close())
}

// all returns everything in a mailbox.
func all(tb testing.TB, s store.Store, destination spec.ServerName) (entries []store.Entry) {
	tb.Helper()
	for after := int64(0); ; after = entries[len(entries)-1].ID {
		page, err := s.Next(tb.Context(), destination, after, 100, 1<<30)
		if errors.Is(err, store.ErrEmpty) {
			return entries
		}
		require.NoError(tb, err)
		entries = append(entries, page...)
	}
}

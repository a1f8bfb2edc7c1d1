package relay_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os"
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

// The in-tree stores against the one conformance suite.

func TestStores(t *testing.T) {
	t.Run("memory", func(t *testing.T) { storetest.Run(t, memoryPlace) })
	t.Run("sqlite", func(t *testing.T) { storetest.Run(t, sqlitePlace) })
}

func BenchmarkStores(b *testing.B) {
	b.Run("memory", func(b *testing.B) { storetest.Benchmark(b, memoryPlace) })
	b.Run("sqlite", func(b *testing.B) { storetest.Benchmark(b, sqlitePlace) })
}

func memoryPlace(testing.TB) storetest.Place {
	return storetest.Place{
		Volatile:  true,
		Abilities: storetest.Abilities{Notes: true, Batches: true, Timed: true, Measured: true, Managed: true},
		Open: func(_ testing.TB, retention time.Duration) store.Store {
			return memory.New(memory.Options{Retention: retention})
		},
		OpenFew: func(_ testing.TB, ofAll, ofOrigin int64) store.Store {
			return memory.New(memory.Options{MaxCopies: ofAll, MaxCopiesOfOrigin: ofOrigin})
		},
	}
}

func sqlitePlace(tb testing.TB) storetest.Place {
	path := filepath.Join(tb.TempDir(), "relay.db")
	open := func(tb testing.TB, options sqlite.Options) store.Store {
		options.SweepInterval, options.Logger = 100*time.Millisecond, slog.New(slog.DiscardHandler)
		s, err := sqlite.Open(path, options)
		require.NoError(tb, err)
		return s
	}
	return storetest.Place{
		Open: func(tb testing.TB, retention time.Duration) store.Store {
			return open(tb, sqlite.Options{Retention: retention})
		},
		OpenFew: func(tb testing.TB, ofAll, ofOrigin int64) store.Store {
			return open(tb, sqlite.Options{MaxCopies: ofAll, MaxCopiesOfOrigin: ofOrigin})
		},
		// A backup is the file alone: closed, it has no log.
		Copy: func(tb testing.TB) func(testing.TB) {
			backup, err := os.ReadFile(path)
			require.NoError(tb, err)
			return func(tb testing.TB) {
				for _, log := range []string{path + "-wal", path + "-shm"} {
					require.NoFileExists(tb, log)
				}
				require.NoError(tb, os.WriteFile(path, backup, 0o600))
			}
		},
		Abilities: storetest.Abilities{Notes: true, Batches: true, Timed: true, Failing: true, Measured: true, Committing: true, Managed: true},
		// A change that shows in a count has the database repaired when it is opened,
		// which leaves the entry out: the store's own tests have these.
		Damage: map[string]func(testing.TB, spec.ServerName, int64){
			"body":   change(path, `body = x'7b00'`),
			"proof":  change(path, `proof = CAST(proof || 'x' AS BLOB)`),
			"digest": change(path, `digest = x'00'`),
			"txn":    change(path, `txn = ''`),
			"until":  change(path, `until = until - 1`),
		},
		Stall: func(tb testing.TB) (resume func()) {
			db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(60000)") // the store may be committing
			require.NoError(tb, err)
			conn, err := db.Conn(context.Background())
			require.NoError(tb, err)
			_, err = conn.ExecContext(context.Background(), `BEGIN IMMEDIATE`)
			require.NoError(tb, err)
			return func() {
				_, err := conn.ExecContext(context.Background(), `ROLLBACK`)
				require.NoError(tb, errors.Join(err, conn.Close(), db.Close()))
			}
		},
	}
}

// change returns a function that changes the row of an entry.
func change(path, set string) func(testing.TB, spec.ServerName, int64) {
	return func(tb testing.TB, _ spec.ServerName, id int64) {
		db, err := sql.Open("sqlite", path)
		require.NoError(tb, err)
		result, err := db.Exec(`UPDATE entry SET `+set+` WHERE id = ?`, id)
		require.NoError(tb, err)
		n, err := result.RowsAffected()
		require.NoError(tb, err)
		require.EqualValues(tb, 1, n)
		require.NoError(tb, db.Close())
	}
}

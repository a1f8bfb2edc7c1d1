//go:build unix

package postgres

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/storetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	pgtest.StopShared()
	os.Exit(code)
}

func TestStore(t *testing.T) { storetest.Run(t, place) }

func BenchmarkStore(b *testing.B) { storetest.Benchmark(b, place) }

// place is a database of its own in the server of all tests.
func place(tb testing.TB) storetest.Place {
	return placeAt(pgtest.Shared(tb).Database(tb))
}

func placeAt(connString string) storetest.Place {
	return storetest.Place{
		Shared: true,
		Open: func(tb testing.TB, retention time.Duration) store.Store {
			return open(tb, Options{ConnString: connString, Retention: retention, SweepInterval: 20 * time.Millisecond})
		},
		Damage: func(tb testing.TB, _ spec.ServerName, id int64) {
			conn, err := pgx.Connect(tb.Context(), connString)
			require.NoError(tb, err)
			defer func() { require.NoError(tb, conn.Close(tb.Context())) }()
			tag, err := conn.Exec(tb.Context(), `UPDATE relay.entry SET body = '\x7b00' WHERE id = $1`, id)
			require.NoError(tb, err)
			require.EqualValues(tb, 1, tag.RowsAffected())
		},
	}
}

// open opens a store that the test closes.
func open(tb testing.TB, options Options) *Store {
	tb.Helper()
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := Open(tb.Context(), options)
	require.NoError(tb, err)
	return s
}

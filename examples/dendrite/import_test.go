package main

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/internal/caching"
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/relayapi"
	"github.com/matrix-org/dendrite/relayapi/api"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/dendrite"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// TestImportQueue moves mail out of tables that Dendrite's own relay has made and
// filled, in both databases that it knows.
func TestImportQueue(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		importQueue(t, "file:"+filepath.Join(t.TempDir(), "relay.db"))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		importQueue(t, startPostgres(t))
	})
}

func importQueue(t *testing.T, database string) {
	others := []spec.ServerName{nameOf("carol"), nameOf("dave")}
	const each = 100
	fill := func(relay api.RelayInternalAPI) {
		for i := range each {
			for _, to := range others {
				transaction := relaytest.NewNode(a).Transaction(to, fmt.Sprint(i), 1, 300)
				require.NoError(t, relay.PerformStoreTransaction(t.Context(), transaction, relaytest.User(to)))
			}
		}
		// The first was fetched and acknowledged.
		first, err := relay.QueryTransactions(t.Context(), relaytest.User(others[0]), fclient.RelayEntry{})
		require.NoError(t, err)
		_, err = relay.QueryTransactions(t.Context(), relaytest.User(others[0]), fclient.RelayEntry{EntryID: first.EntryID})
		require.NoError(t, err)
	}
	tables := withTables(t, database, fill)
	mail := memory.New(memory.Options{})
	defer func() { require.NoError(t, mail.Close()) }()
	got, err := dendrite.ImportQueue(t.Context(), tables, mail, dendrite.ImportOptions{})
	require.NoError(t, err)
	require.Equal(t, dendrite.Imported{Moved: 2*each - 1}, got)
	for i, server := range others {
		entries, err := mail.Next(t.Context(), server, 0, 2*each, 1<<40)
		require.NoError(t, err)
		first := 1 - i
		require.Len(t, entries, each-first)
		for j, entry := range entries {
			requireMail(t, entry, fmt.Sprint(first+j))
		}
	}
	for _, table := range []string{"relayapi_queue", "relayapi_queue_json"} {
		var rows int
		require.NoError(t, tables.QueryRow("SELECT count(*) FROM "+table).Scan(&rows))
		require.Zero(t, rows, table)
	}
	got, err = dendrite.ImportQueue(t.Context(), tables, mail, dendrite.ImportOptions{})
	require.NoError(t, err)
	require.Zero(t, got)
}

func requireMail(t *testing.T, entry store.Entry, id string) {
	t.Helper()
	require.Equal(t, gomatrixserverlib.TransactionID(id), entry.TransactionID)
	require.Equal(t, relaytest.NewNode(a).ServerName, entry.Origin)
	require.Contains(t, string(entry.Body), id+"-0")
}

// withTables has a real relay of Dendrite use a database, and opens that when the
// relay is gone.
func withTables(t *testing.T, database string, use func(api.RelayInternalAPI)) *sql.DB {
	c := configOf(options{seed: r, dir: t.TempDir()})
	c.RelayAPI.Database.ConnectionString = config.DataSource(database)
	running := process.NewProcessContext()
	caches := caching.NewRistrettoCache(c.Global.Cache.EstimatedMaxSize, c.Global.Cache.MaxAge, caching.DisableMetrics)
	cm := sqlutil.NewConnectionManager(running, c.Global.DatabaseOptions)
	use(relayapi.NewRelayInternalAPI(c, cm, nil, nil, nil, nil, true, caches))
	running.ShutdownDendrite()
	running.WaitForComponentsToFinish()
	tables, err := sqlutil.Open(&c.RelayAPI.Database, sqlutil.NewDummyWriter())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tables.Close()) })
	return tables
}

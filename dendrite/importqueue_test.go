package dendrite_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver

	"github.com/matrixrelay/relay/dendrite"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// Tables that a real Dendrite made are imported in examples/dendrite.

// openTables makes the tables of a relay. The test's own rows are in them.
func openTables(t *testing.T) *sql.DB {
	tables, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "relay.db")+"?_pragma=synchronous(off)&_pragma=journal_mode(wal)")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, tables.Close()) })
	execute(t, tables, `CREATE TABLE relayapi_queue (transaction_id TEXT, server_name TEXT, json_nid BIGINT)`)
	execute(t, tables, `CREATE TABLE relayapi_queue_json (json_nid INTEGER PRIMARY KEY, json_body TEXT)`)
	return tables
}

func execute(t *testing.T, tables *sql.DB, query string, args ...any) {
	t.Helper()
	_, err := tables.Exec(query, args...)
	require.NoError(t, err)
}

func count(t *testing.T, tables *sql.DB, table string) (n int) {
	t.Helper()
	require.NoError(t, tables.QueryRow(`SELECT count(*) FROM `+table).Scan(&n))
	return n
}

func quiet() *logrus.Entry {
	logger := logrus.New()
	logger.Out = io.Discard
	return logrus.NewEntry(logger)
}

// A flaky store fails at times, also after it has stored some mail, and is no
// store.Batches at others.
type flaky struct {
	*memory.Store
	random *rand.Rand
}

var errFlaky = errors.New("the store fails")

func (f flaky) PutAll(ctx context.Context, mails []store.Mail) error {
	some := mails[:f.random.IntN(len(mails)+1)]
	if f.random.IntN(2) == 0 {
		some = mails
	}
	if err := f.Store.PutAll(ctx, some); err != nil || len(some) == len(mails) {
		return err
	}
	return errFlaky
}

// unbatched hides store.Batches.
type unbatched struct{ store.Store }

// TestImportQueue imports random mail for some servers, through random failures. All of
// it is there in the end, in its order, once; rows that can't be read stay in the tables.
func TestImportQueue(t *testing.T) {
	runs := 5
	if testing.Short() {
		runs = 1 // under the race detector, SQLite in Go takes a minute for each
	}
	seeds.Each(t, "RELAY_IMPORT_SEED", "RELAY_IMPORT_RUNS", runs, func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		tables, mail := openTables(t), memory.New(memory.Options{})
		defer func() { assert.NoError(t, mail.Close()) }()
		want, unreadable := fillTables(t, random, tables)
		var to store.Store = flaky{mail, random}
		if random.IntN(4) == 0 {
			to = unbatched{mail}
		}
		moved := 0
		for {
			got, err := dendrite.ImportQueue(t.Context(), tables, to, dendrite.ImportOptions{Logger: quiet()})
			moved += got.Moved
			if err == nil {
				require.Equal(t, unreadable, got.Unreadable)
				break
			}
			require.ErrorIs(t, err, errFlaky)
		}
		total := 0
		for server, bodies := range want {
			require.Equal(t, bodies, bodiesOf(t, mail, server))
			total += len(bodies)
		}
		require.Equal(t, total, moved)
		require.Equal(t, unreadable, count(t, tables, "relayapi_queue"))
	})
}

// fillTables queues random mail, and returns the mail that is to come of it.
func fillTables(t *testing.T, random *rand.Rand, tables *sql.DB) (want map[spec.ServerName][]string, unreadable int) {
	want = make(map[spec.ServerName][]string)
	sizes := []int{200, 200, 200, 200, 200, 200, 200, 200, 500_000}
	for i := range random.IntN(200) {
		server := relaytest.NewNode(fmt.Sprint("server ", random.IntN(3))).ServerName
		id := fmt.Sprint("id-", i)
		body, err := json.Marshal(a.Transaction(server, id, random.IntN(3), sizes[random.IntN(len(sizes))]))
		require.NoError(t, err)
		kept := string(body)
		switch random.IntN(20) {
		case 0:
			kept = `{"pdus":` // garbage
			unreadable++
		case 1:
			kept = `{"pdus":[]}` // of nobody
			unreadable++
		default:
			want[server] = append(want[server], kept)
		}
		execute(t, tables, `INSERT INTO relayapi_queue_json (json_nid, json_body) VALUES ($1, $2)`, i+1, kept)
		execute(t, tables, `INSERT INTO relayapi_queue (transaction_id, server_name, json_nid) VALUES ($1, $2, $3)`, id, string(server), i+1)
	}
	return want, unreadable
}

func bodiesOf(t *testing.T, mail store.Store, server spec.ServerName) (bodies []string) {
	t.Helper()
	entries, err := mail.Next(t.Context(), server, 0, 1000, 1<<40)
	if !errors.Is(err, store.ErrEmpty) {
		require.NoError(t, err)
	}
	for _, entry := range entries {
		bodies = append(bodies, string(entry.Body))
		require.Equal(t, a.ServerName, entry.Origin)
		require.Positive(t, entry.Lifetime)
	}
	return bodies
}

// TestImportQueueOdd has odd rows that Dendrite's relay can leave behind: a row whose
// body is missing, a body that no row needs, and one for no server. A body that rows
// share stays as long as one of these does.
func TestImportQueueOdd(t *testing.T) {
	tables, mail := openTables(t), memory.New(memory.Options{})
	defer func() { assert.NoError(t, mail.Close()) }()
	body := func(to spec.ServerName) string {
		encoded, err := json.Marshal(a.Transaction(to, "one", 1, 300))
		require.NoError(t, err)
		return string(encoded)
	}
	c := relaytest.NewNode("c").ServerName
	execute(t, tables, `INSERT INTO relayapi_queue_json (json_nid, json_body) VALUES (1, $1), (2, $1)`, body(c))
	execute(t, tables, `INSERT INTO relayapi_queue (transaction_id, server_name, json_nid) VALUES ('one', $1, 1), ('one', $2, 1), ('two', $2, 3), ('one', 'no name', 1)`, string(b.ServerName), string(c))
	got, err := dendrite.ImportQueue(t.Context(), tables, mail, dendrite.ImportOptions{Lifetime: time.Hour, Logger: quiet()})
	require.NoError(t, err)
	require.Equal(t, dendrite.Imported{Moved: 2, Unreadable: 2}, got)
	require.Len(t, bodiesOf(t, mail, b.ServerName), 1)
	require.Len(t, bodiesOf(t, mail, c), 1)
	require.Equal(t, 2, count(t, tables, "relayapi_queue"))
	require.Equal(t, 2, count(t, tables, "relayapi_queue_json"))
}

// TestImportNothing is a database without a relay, and one that can't be read.
func TestImportNothing(t *testing.T) {
	tables, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "relay.db"))
	require.NoError(t, err)
	got, err := dendrite.ImportQueue(t.Context(), tables, nil, dendrite.ImportOptions{})
	require.NoError(t, err)
	require.Zero(t, got)
	execute(t, tables, `CREATE TABLE relayapi_queue (something_else TEXT)`)
	_, err = dendrite.ImportQueue(t.Context(), tables, nil, dendrite.ImportOptions{})
	require.ErrorContains(t, err, "importing mail")
	require.NoError(t, tables.Close())
	_, err = dendrite.ImportQueue(t.Context(), tables, nil, dendrite.ImportOptions{})
	require.ErrorContains(t, err, "importing mail")
}

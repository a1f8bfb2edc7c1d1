//go:build unix

package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
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
	if said := os.Getenv(severalVariable); said != "" {
		if err := severalProcess(said); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	pgtest.StopShared()
	os.Exit(code)
}

// patience is how long tests wait for things that have to happen: much longer than it
// takes, as the machine may be slow or busy.
const patience = 2 * time.Minute

func TestStore(t *testing.T) { storetest.Run(t, place) }

func BenchmarkStore(b *testing.B) { storetest.Benchmark(b, place) }

// common is the database that most tests share, each with a schema of its own:
// making a database takes the server longer than many a test.
var common struct {
	once       sync.Once
	connString string
	schemas    atomic.Int64
}

// fresh returns options for a store that is empty.
func fresh(tb testing.TB) Options {
	tb.Helper()
	server := pgtest.Shared(tb)
	common.once.Do(func() { common.connString = server.Database(tb) })
	return Options{ConnString: common.connString, Schema: fmt.Sprintf(`it's "é" %d`, common.schemas.Add(1))}
}

func place(tb testing.TB) storetest.Place { return placeAt(fresh(tb)) }

// sweepInterval is short, since tests wait for sweeps, but not so short that the many
// stores of the suite do little else.
const sweepInterval = 100 * time.Millisecond

func placeAt(options Options) storetest.Place {
	return storetest.Place{
		Shared: true,
		Open: func(tb testing.TB, retention time.Duration) store.Store {
			options := options
			options.Retention, options.SweepInterval = retention, sweepInterval
			return open(tb, options)
		},
		OpenFew: func(tb testing.TB, ofAll, ofOrigin int64) store.Store {
			options := options
			options.MaxCopies, options.MaxCopiesOfOrigin, options.SweepInterval = ofAll, ofOrigin, sweepInterval
			return open(tb, options)
		},
		Copy:      func(tb testing.TB) func(testing.TB) { return backup(tb, options) },
		Abilities: storetest.Abilities{Notes: true, Batches: true, Timed: true, Failing: true, Measured: true, Committing: true, Managed: true},
		Damage: map[string]func(testing.TB, spec.ServerName, int64){
			"body":   change(options, `body = '\x7b00'`),
			"proof":  change(options, `proof = proof || '\x00'`),
			"digest": change(options, `digest = substr(digest, 2)`),
			"origin": change(options, `origin = '\x61'`),
			"txn":    change(options, `txn = ''`),
			"until":  change(options, `until = until - 1`),
			"key":    change(options, `copy_key = '\x00' || copy_key`),
		},
		Stall: func(tb testing.TB) (resume func()) {
			conn := dial(tb, options.ConnString)
			lock, err := conn.Begin(context.Background())
			require.NoError(tb, err)
			_, err = lock.Exec(context.Background(), schema(options.Schema).sql(`LOCK TABLE {s}.mailbox, {s}.note IN EXCLUSIVE MODE`))
			require.NoError(tb, err)
			return func() { require.NoError(tb, lock.Rollback(context.Background())) }
		},
		// The kernel keeps bytes that the server didn't sync: this is as much as a test can
		// take away from it.
		Crash: func(tb testing.TB) {
			pgtest.Shared(tb).Kill()
			pgtest.Shared(tb).Start(tb)
		},
	}
}

// change returns a function that changes the row of an entry.
func change(options Options, set string) func(testing.TB, spec.ServerName, int64) {
	return func(tb testing.TB, _ spec.ServerName, id int64) {
		require.EqualValues(tb, 1, execute(tb, options, `UPDATE {s}.entry SET `+set+` WHERE id = $1`, id))
	}
}

// execute does something behind the back of the stores, and returns how many
// rows that were.
func execute(tb testing.TB, options Options, sql string, args ...any) int64 {
	tb.Helper()
	conn := dial(tb, options.ConnString)
	tag, err := conn.Exec(context.Background(), schema(options.withDefaults().Schema).sql(sql), args...)
	require.NoError(tb, err)
	require.NoError(tb, conn.Close(context.Background())) // there may be many of these
	return tag.RowsAffected()
}

// dial returns a connection that is closed with the test.
func dial(tb testing.TB, connString string) *pgx.Conn {
	tb.Helper()
	config, err := pgx.ParseConfig(connString)
	require.NoError(tb, err)
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe // there may be a pooler in between
	conn, err := pgx.ConnectConfig(context.Background(), config)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = conn.Close(context.Background()) }) // the server may be gone
	return conn
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

// mail returns the nth mail, for b.
func mail(n int) store.Mail {
	m := store.Mail{Destination: "b", Origin: "a", TransactionID: "1", Body: fmt.Appendf(nil, `{"pdus":[%d]}`, n)}
	binary.BigEndian.PutUint64(m.Digest[:], uint64(n))
	return m
}

// putMany puts that many mails from many goroutines, through all stores.
func putMany(tb testing.TB, n int, stores ...*Store) {
	tb.Helper()
	const putters = 64
	errs := make([]error, putters)
	var all sync.WaitGroup
	for i := range putters {
		all.Go(func() {
			for number := i; number < n && errs[i] == nil; number += putters {
				_, errs[i] = stores[i%len(stores)].Put(context.Background(), mail(number), store.Limits{})
			}
		})
	}
	all.Wait()
	require.NoError(tb, errors.Join(errs...))
}

//go:build unix

package postgres

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/aside"
)

func TestOpenAtOnce(t *testing.T) {
	options := fresh(t)
	stores, errs := make([]*Store, 8), make([]error, 8)
	var all sync.WaitGroup
	for i := range stores {
		all.Go(func() { stores[i], errs[i] = Open(t.Context(), options) })
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	putMany(t, 100, stores...)
	for _, s := range stores {
		require.NoError(t, s.Close())
	}
}

func TestNewerVersion(t *testing.T) {
	options := fresh(t)
	require.NoError(t, open(t, options).Close())
	execute(t, options, `UPDATE {s}.version SET version = version + 1`)
	_, err := Open(t.Context(), options)
	require.ErrorContains(t, err, fmt.Sprintf("version %d, this program knows up to %d", len(migrations)+1, len(migrations)))
}

// A database from a backup doesn't give out IDs that were given after it was
// made.
func TestRestored(t *testing.T) {
	options := fresh(t)
	s := open(t, options)
	putMany(t, 10, s)
	first := s.firstID(t, "b")
	require.NoError(t, s.Close())
	execute(t, options, `TRUNCATE {s}.entry, {s}.gone, {s}.mailbox`)
	execute(t, options, `SELECT setval('{'s}.entry_id', $1)`, first-1_000_000)
	s = open(t, options)
	putMany(t, 10, s)
	require.Greater(t, s.firstID(t, "b"), first+9)
	require.NoError(t, s.Close())
}

func TestOpenFails(t *testing.T) {
	for _, options := range []Options{
		{ConnString: "postgres://%"},
		{ConnString: "host=/nonexistent"},
		{ConnString: "host=/nonexistent", ListenString: "postgres://%"},
		{ConnString: "host=/nonexistent", Schema: strings.Repeat("x", 41)},
		{ConnString: "host=/nonexistent", Schema: "\x00"},
	} {
		_, err := Open(t.Context(), options)
		require.ErrorContains(t, err, "postgres: open: ")
	}
}

// A role that may not make schemas can use one that was made for it.
func TestFewRights(t *testing.T) {
	options := Options{ConnString: pgtest.Shared(t).Database(t), Schema: "for plain"}
	plain := "plain" + newID() // roles are the server's
	execute(t, options, `CREATE ROLE `+plain+` LOGIN`)
	execute(t, options, `CREATE SCHEMA {s} AUTHORIZATION `+plain)
	u, err := url.Parse(options.ConnString)
	require.NoError(t, err)
	u.User = url.User(plain)
	options.ConnString = u.String()
	s := open(t, options)
	putMany(t, 1, s)
	require.NoError(t, s.Close())
}

// With any defaults of a database or a role, a Put waits for the disk.
func TestDefaultsOfTheDatabase(t *testing.T) {
	options := Options{ConnString: pgtest.Shared(t).Database(t)}
	var name string
	require.NoError(t, dial(t, options.ConnString).QueryRow(t.Context(), `SELECT current_database()`).Scan(&name))
	for _, setting := range []string{
		"synchronous_commit = off", "default_transaction_isolation = 'serializable'", "search_path = ''",
		"bytea_output = 'escape'", "plan_cache_mode = 'force_generic_plan'", "default_transaction_read_only = on",
	} {
		execute(t, options, `ALTER DATABASE `+name+` SET `+setting)
	}
	options.SweepInterval, options.Retention = 10*time.Millisecond, time.Millisecond
	s := open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	for _, sql := range []string{
		`CREATE TABLE {s}.spied AS SELECT ''::text AS commit, ''::text AS isolation WHERE false`,
		`CREATE FUNCTION {s}.spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO {s}.spied SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation'); RETURN NULL; END $$`,
		`CREATE TRIGGER spy AFTER INSERT ON {s}.entry EXECUTE FUNCTION {s}.spy()`,
	} {
		tx := `BEGIN READ WRITE; ` + schema("relay").sql(sql) + `; COMMIT`
		_, err := dial(t, options.ConnString).PgConn().Exec(t.Context(), tx).ReadAll()
		require.NoError(t, err)
	}
	life(t, s)
	var wrong, all int
	err := s.pool.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE commit <> 'on' OR isolation <> 'read committed'), count(*)
		FROM relay.spied`).Scan(&wrong, &all)
	require.NoError(t, err)
	require.Zero(t, wrong)
	require.NotZero(t, all)
}

func TestNoFsync(t *testing.T) {
	server := pgtest.New(t)
	options := Options{ConnString: server.Database(t)}
	s := open(t, options)
	putMany(t, 1, s)
	execute(t, options, `ALTER SYSTEM SET fsync = off`)
	execute(t, options, `SELECT pg_reload_conf()`)
	require.Eventually(t, func() bool {
		m := mail(int(time.Now().UnixNano()))
		_, err := s.Put(t.Context(), m, store.Limits{})
		return errors.Is(err, errFsync)
	}, patience, 10*time.Millisecond)
	require.NoError(t, s.Close())
	_, err := Open(t.Context(), options)
	require.ErrorIs(t, err, errFsync)
	options.AllowNoFsync = true
	s = open(t, options)
	putMany(t, 100, s)
	require.NoError(t, s.Close())
}

// In every way that pgx has to say things.
func TestExecModes(t *testing.T) {
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			options := fresh(t)
			options.ConnString += "&default_query_exec_mode=" + mode
			options.SweepInterval, options.Retention = 10*time.Millisecond, time.Millisecond
			s := open(t, options)
			require.Equal(t, mode, modeName(s.pool))
			life(t, s)
			require.NoError(t, s.Close())
		})
	}
}

// Statements are prepared unless there is a pooler in between.
func TestExecModeOfItsOwn(t *testing.T) {
	server := pgtest.Shared(t)
	options := fresh(t)
	direct := open(t, options)
	require.Equal(t, "cache_statement", modeName(direct.pool))
	require.NoError(t, direct.Close())
	for _, mode := range []string{"transaction", "session"} {
		options.ConnString = server.Bouncer(t, mode)(fresh(t).ConnString)
		pooled := open(t, options)
		require.Equal(t, "cache_describe", modeName(pooled.pool))
		require.NoError(t, pooled.Close())
	}
}

func modeName(pool *pgxpool.Pool) string {
	return strings.ReplaceAll(pool.Config().ConnConfig.DefaultQueryExecMode.String(), " ", "_")
}

// A pool that is given is used, and left open.
func TestPool(t *testing.T) {
	options := fresh(t)
	pool, err := pgxpool.New(t.Context(), options.ConnString)
	require.NoError(t, err)
	defer pool.Close()
	options.Pool, options.ConnString = pool, "not used"
	options.SweepInterval, options.Retention = 10*time.Millisecond, time.Millisecond
	s := open(t, options)
	life(t, s)
	require.NoError(t, s.Close())
	require.NoError(t, pool.Ping(t.Context()))
}

// life is everything that happens to mail.
func life(t *testing.T, s *Store) {
	t.Helper()
	odd := mail(1 << 40)
	odd.Destination, odd.Origin, odd.TransactionID = "\x00\xff\\'$1", "?\x80", "--\n$2\x00"
	odd.Body, odd.Proof, odd.Lifetime = []byte("\x00\\x\xff'"), []byte{}, time.Hour
	all := store.Limits{Entries: 1 << 40, Bytes: 1 << 40, OriginEntries: 1 << 40, OriginBytes: 1 << 40, StoreEntries: 1 << 40, StoreBytes: 1 << 40}
	for _, want := range []bool{true, false} {
		stored, err := s.Put(t.Context(), odd, all)
		require.NoError(t, err)
		require.Equal(t, want, stored)
	}
	putMany(t, 300, s)
	_, err := s.Put(t.Context(), mail(300), store.Limits{Entries: 300})
	require.ErrorIs(t, err, store.ErrFull)

	entries, err := s.Next(t.Context(), odd.Destination, 0, 10, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	got := entries[0].Mail
	require.LessOrEqual(t, got.Lifetime, odd.Lifetime)
	require.Greater(t, got.Lifetime, odd.Lifetime-patience, "the rest of it")
	got.Lifetime = odd.Lifetime
	require.Equal(t, odd, got)
	names, err := s.Destinations(t.Context(), "", 10)
	require.NoError(t, err)
	require.Len(t, names, 2)
	require.NoError(t, s.Wait(t.Context(), "b", 0))
	require.NoError(t, s.SetNotes(t.Context(), []store.Note{{Key: "\x00", Value: []byte{0, 255}}, {Key: "none"}}))
	notes, err := s.Notes(t.Context(), "", "", 10)
	require.NoError(t, err)
	require.Equal(t, []store.Note{{Key: "\x00", Value: []byte{0, 255}}}, notes)

	entries, err = s.Next(t.Context(), "b", 0, 1000, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, entries, 300)
	s.past.Pass(t.Context(), "b", aside.Damage{ID: entries[0].ID, Err: errChecksum})
	removed, err := s.Ack(t.Context(), "b", entries[299].ID)
	require.NoError(t, err)
	require.Equal(t, 299, removed)
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, store.Usage{Entries: 1, Bytes: odd.Size(), SetAside: 1}, usage)

	soon := mail(301)
	soon.Destination, soon.Lifetime = "c", time.Nanosecond
	_, err = s.Put(t.Context(), soon, store.Limits{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		var rows int
		err := s.pool.QueryRow(t.Context(), s.schema().sql(`SELECT (SELECT count(*) FROM {s}.gone) + (SELECT count(*) FROM {s}.mailbox)`)).Scan(&rows)
		require.NoError(t, err)
		return rows == 2
	}, patience, 10*time.Millisecond, "all that is over is swept, but for the mailboxes of what is there")
}

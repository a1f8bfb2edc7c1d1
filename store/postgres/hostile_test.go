//go:build unix

package postgres

import (
	"bytes"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
)

// A commit that waits for a standby, and is told not to, is no success: the
// server says so in a warning only.
func TestCanceledCommit(t *testing.T) {
	server := pgtest.New(t)
	options := Options{ConnString: server.Database(t)}
	s := open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	alter := func(names string) {
		execute(t, options, `ALTER SYSTEM SET synchronous_standby_names = '`+names+`'`)
		execute(t, options, `SELECT pg_reload_conf()`)
	}
	alter("nobody")
	// The server says that it has the setting a moment before commits heed it.
	config, err := pgx.ParseConfig(options.ConnString)
	require.NoError(t, err)
	config.OnNotice = noteWarning
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	err = cancelingCommits(t, options, func() (err error) {
		for err == nil && !hasWarned(conn) {
			_, err = conn.Exec(t.Context(), `SELECT pg_logical_emit_message(true, '', '')`)
		}
		return err
	})
	require.NoError(t, err)

	err = cancelingCommits(t, options, func() error {
		_, err := s.Put(t.Context(), mail(1), store.Limits{})
		return err
	})
	require.ErrorIs(t, err, errWarned, "it is on no standby")
	alter("")
	stored, err := s.Put(t.Context(), mail(1), store.Limits{})
	require.NoError(t, err, "now there is nobody to wait for")
	require.False(t, stored, "it was there")
}

// cancelingCommits does something, and meanwhile tells each commit that waits for
// a standby, once, not to.
func cancelingCommits(t *testing.T, options Options, do func() error) error {
	t.Helper()
	conn, last := dial(t, options.ConnString), time.Time{}
	done := make(chan error, 1)
	go func() { done <- do() }()
	for end := time.Now().Add(patience); ; {
		err := conn.QueryRow(t.Context(), `SELECT coalesce(max(query_start), $1), count(pg_cancel_backend(pid))
			FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query_start > $1`, last).Scan(&last, nil)
		require.NoError(t, err)
		require.True(t, time.Now().Before(end), "commits don't wait for a standby")
		select {
		case err := <-done:
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// The largest bodies that a relay takes fit, also behind as many others as one
// batch has before its last.
func TestLargeBodies(t *testing.T) {
	s := open(t, fresh(t))
	defer func() { require.NoError(t, s.Close()) }()
	sizes := []int{group.MaxBytes / 2, group.MaxBytes/2 - 1000, 10 << 20}
	var mails []store.Mail
	for n, size := range sizes {
		mails = append(mails, large(n, size))
	}
	errs := putTogether(t, s, store.Limits{StoreBytes: 1 << 40}, mails...)
	require.NoError(t, errors.Join(errs...))
	after := int64(0)
	for _, m := range mails {
		entries, err := s.Next(t.Context(), "b", after, len(sizes), 1)
		require.NoError(t, err)
		require.Len(t, entries, 1)
		require.True(t, bytes.Equal(m.Body, entries[0].Body))
		after = entries[0].ID
	}
}

// Functions that a stranger may make where ours are looked for aren't called.
func TestSearchPath(t *testing.T) {
	options := Options{ConnString: pgtest.Shared(t).Database(t)}
	trap := `RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called'; END $$`
	for _, function := range []string{
		"nextval(text)", "sum(bigint)", "set_config(text, text, boolean)", "current_setting(text)", "pg_notify(text, text)",
		"pg_advisory_xact_lock(bigint)", "setval(text, bigint)", "concat(text)",
	} {
		execute(t, options, `CREATE FUNCTION public.`+function+` `+trap)
	}
	options.SweepInterval, options.Retention = 10*time.Millisecond, time.Millisecond
	s := open(t, options)
	life(t, s)
	require.NoError(t, s.Close())
}

// A reader that has to wait leaves a connection to the Puts.
func TestManyReaders(t *testing.T) {
	options := fresh(t)
	few := options
	few.ConnString += "&pool_max_conns=4"
	s := open(t, few)
	defer func() { require.NoError(t, s.Close()) }()
	lock, err := dial(t, options.ConnString).Begin(t.Context())
	require.NoError(t, err)
	_, err = lock.Exec(t.Context(), s.schema().sql(`LOCK TABLE {s}.note IN ACCESS EXCLUSIVE MODE`))
	require.NoError(t, err)
	var all sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		all.Go(func() { _, errs[i] = s.Notes(context.Background(), "", "", 1) })
	}
	require.Eventually(t, func() bool { return len(s.reader.turns) == cap(s.reader.turns) }, patience, time.Millisecond)
	for n := range 10 {
		_, err := s.Put(t.Context(), mail(n), store.Limits{})
		require.NoError(t, err)
	}
	require.NoError(t, lock.Rollback(t.Context()))
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

// A caller of Put isn't told of a connection that was lost meanwhile.
func TestTriedAgain(t *testing.T) {
	options := fresh(t)
	s := open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	p, l := newPut(mail(1), store.Limits{}), &losing{lose: func() {
		require.EqualValues(t, 1, execute(t, options, `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'idle in transaction'`))
	}}
	require.NoError(t, s.writer.transact([]work{p, l}, false)) // nobody else uses the writer
	require.True(t, p.stored)
	require.Equal(t, 2, l.tries)
	entries, err := s.Next(t.Context(), "b", 0, 10, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

// A losing loses the connection of the first transaction that it is in.
type losing struct {
	lose  func()
	tries int
}

func (l *losing) touches() []spec.ServerName { return nil }
func (l *losing) ask(*batch, *pgx.Batch)     {}

func (l *losing) decide(*batch) error {
	if l.tries++; l.tries == 1 {
		l.lose()
	}
	return nil
}

// Other processes learn of mail when it is put again, though the process that
// put it first has ended between its commit and telling them.
func TestUntold(t *testing.T) {
	options := fresh(t)
	sender, receiver := open(t, options), open(t, options)
	defer func() { require.NoError(t, sender.Close()) }()
	defer func() { require.NoError(t, receiver.Close()) }()
	<-receiver.listener.tried // all waiting calls are woken then
	wait := arrival(t, receiver, "b")
	silent := newBatch(sender.writer.options)
	silent.server = sender.writer.server
	silent.id = receiver.listener.id // its own announcements it doesn't hear
	require.NoError(t, sender.writer.run(silent, []work{newPut(mail(1), store.Limits{})}))
	stored, err := sender.Put(t.Context(), mail(1), store.Limits{})
	require.NoError(t, err)
	require.False(t, stored)
	wait()
}

// They are told in another way when that failed after the commit.
func TestToldAgain(t *testing.T) {
	options := Options{ConnString: pgtest.Shared(t).Database(t)}
	receiver := open(t, options)
	defer func() { require.NoError(t, receiver.Close()) }()
	const telling = `EXECUTE ON FUNCTION pg_notify(text, text)`
	role := "mute" + newID()
	for _, sql := range []string{
		`CREATE ROLE ` + role + ` LOGIN`, `GRANT ALL ON SCHEMA {s} TO ` + role,
		`GRANT ALL ON ALL TABLES IN SCHEMA {s} TO ` + role, `GRANT ALL ON ALL SEQUENCES IN SCHEMA {s} TO ` + role,
	} {
		execute(t, options, sql)
	}
	config, err := pgxpool.ParseConfig(options.ConnString)
	require.NoError(t, err)
	config.ConnConfig.User = role
	var mute atomic.Bool
	var acquired atomic.Int64
	config.BeforeAcquire = func(context.Context, *pgx.Conn) bool { //nolint:staticcheck // the oldest pgx has no other
		if mute.Load() && acquired.Add(1) == 2 {
			execute(t, options, `GRANT `+telling+` TO `+role)
		}
		return true
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	sender := open(t, Options{Pool: pool})
	defer func() { require.NoError(t, sender.Close()) }()
	<-sender.listener.tried // it uses the pool
	<-receiver.listener.tried
	wait := arrival(t, receiver, "b")
	execute(t, options, `REVOKE `+telling+` FROM PUBLIC`)
	mute.Store(true)
	stored, err := sender.Put(t.Context(), mail(1), store.Limits{})
	require.NoError(t, err)
	require.True(t, stored)
	require.EqualValues(t, 2, acquired.Load(), "to commit, and to tell")
	wait()
}

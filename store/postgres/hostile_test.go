//go:build unix

package postgres

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/store"
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
	waiting := `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`
	alter("nobody")
	conn := dial(t, options.ConnString)
	require.Eventually(t, func() bool {
		var names string
		require.NoError(t, conn.QueryRow(t.Context(), `SHOW synchronous_standby_names`).Scan(&names))
		return names == "nobody"
	}, 10*time.Second, 10*time.Millisecond)

	done := make(chan error, 1)
	go func() {
		_, err := s.Put(context.Background(), mail(1), store.Limits{})
		done <- err
	}()
	for given := false; !given; time.Sleep(5 * time.Millisecond) {
		_, err := conn.Exec(t.Context(), waiting)
		require.NoError(t, err)
		select {
		case err := <-done:
			require.ErrorIs(t, err, errWarned, "it is on no standby")
			given = true
		default:
		}
	}
	alter("")
	stored, err := s.Put(t.Context(), mail(1), store.Limits{})
	require.NoError(t, err, "now there is nobody to wait for")
	require.False(t, stored, "it was there")
}

// The largest bodies that a relay takes fit, also when they come together.
func TestLargeBodies(t *testing.T) {
	s := open(t, fresh(t))
	defer func() { require.NoError(t, s.Close()) }()
	const count, size = 4, 10 << 20
	puts := make([]func(), count)
	for n := range puts {
		puts[n] = func() {
			_, err := s.Put(context.Background(), large(n, size), store.Limits{StoreBytes: 1 << 40})
			assert.NoError(t, err)
		}
	}
	together(t, s, puts...)
	after := int64(0)
	for range count {
		entries, err := s.Next(t.Context(), "b", after, count, size+1)
		require.NoError(t, err)
		require.Len(t, entries, 1)
		require.Equal(t, bodyOf(entries[0].Digest, size), entries[0].Body)
		after = entries[0].ID
	}
}

// Somebody who may make functions where ours are looked for isn't called.
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

// Whoever reads, and has to wait for it, leaves a connection to those who put.
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
	require.Eventually(t, func() bool { return len(s.reader.turns) == cap(s.reader.turns) }, 10*time.Second, time.Millisecond)
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

// Other processes learn of mail when it is put again, though the process that
// put it first has ended between its commit and telling them.
func TestUntold(t *testing.T) {
	options := fresh(t)
	sender, receiver := open(t, options), open(t, options)
	defer func() { require.NoError(t, sender.Close()) }()
	defer func() { require.NoError(t, receiver.Close()) }()
	wait := arrival(t, receiver, "b")
	time.Sleep(100 * time.Millisecond)
	silent := newBatch(sender.writer.options)
	silent.server = sender.writer.server
	silent.id = receiver.listener.id // what it has said itself it doesn't hear
	require.NoError(t, sender.writer.run(silent, []work{newPut(mail(1), store.Limits{})}))
	stored, err := sender.Put(t.Context(), mail(1), store.Limits{})
	require.NoError(t, err)
	require.False(t, stored)
	wait()
}

//go:build unix

package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// When something is gone under a store, everything that writes says so, and the store
// must be reopened.
func TestGone(t *testing.T) {
	for name, c := range map[string]struct {
		away  []string
		begun bool // opening begins anew
	}{
		"schema":     {[]string{`DROP SCHEMA {s} CASCADE`}, true},
		"all tables": {[]string{`DROP SCHEMA {s} CASCADE`, `CREATE SCHEMA {s}`}, true},
		"version":    {[]string{`DROP TABLE {s}.version`}, false},
		"mailbox":    {[]string{`DROP TABLE {s}.mailbox`}, false},
		"share":      {[]string{`DROP TABLE {s}.share`}, false},
		"total":      {[]string{`DROP TABLE {s}.total`}, false},
		"entry":      {[]string{`DROP TABLE {s}.entry`}, false},
		"gone":       {[]string{`DROP TABLE {s}.gone`}, false},
		"note":       {[]string{`DROP TABLE {s}.note`}, false},
		"entry_id":   {[]string{`DROP SEQUENCE {s}.entry_id`}, false},
		"of version": {[]string{`TRUNCATE {s}.version`}, false},
	} {
		t.Run(name, func(t *testing.T) {
			options := fresh(t)
			s := open(t, options)
			putMany(t, 3, s)
			for _, sql := range c.away {
				execute(t, options, sql)
			}
			testGone(t, s)
			again, err := Open(t.Context(), options)
			if !c.begun {
				require.ErrorIs(t, err, errGone)
				return
			}
			require.NoError(t, err)
			putMany(t, 3, again)
			require.Len(t, numbersIn(t, again), 3)
			require.NoError(t, again.Close())
		})
	}
}

// testGone has a store notice that its tables are gone, or that one is. It closes
// the store.
func testGone(t *testing.T, s *Store) {
	t.Helper()
	// A table that a Put doesn't need is missed when the server has started again.
	s.writer.queue.Close()
	s.writer.server = "another"
	require.ErrorIs(t, s.writer.transact([]work{newPut(mail(10), store.Limits{})}, false), store.ErrReopen)
	<-s.Failed()
	require.ErrorIs(t, s.Failure(), store.ErrReopen)
	require.True(t, isGone(s.Failure()), "%v", s.Failure())
	require.ErrorIs(t, s.writer.transact([]work{newPut(mail(11), store.Limits{})}, false), store.ErrReopen)
	require.NoError(t, s.Close())
}

// So it is with a database that is dropped, and with an empty one in its place.
func TestGoneDatabase(t *testing.T) {
	for _, anew := range []bool{false, true} {
		t.Run(fmt.Sprint("made anew: ", anew), func(t *testing.T) {
			server := pgtest.Shared(t)
			options := Options{ConnString: server.Database(t)}
			s := open(t, options)
			putMany(t, 3, s)
			u, err := url.Parse(options.ConnString)
			require.NoError(t, err)
			name := u.Path[1:]
			u.Path = "/postgres"
			other := Options{ConnString: u.String()}
			execute(t, other, `DROP DATABASE `+name+` WITH (FORCE)`)
			if anew {
				execute(t, other, `CREATE DATABASE `+name)
			}
			for _, err := range []error{
				second(s.Put(t.Context(), mail(10), store.Limits{})), second(s.Ack(t.Context(), "b", 1)),
				s.SetNotes(t.Context(), []store.Note{{Key: "k", Value: []byte("v")}}),
			} {
				require.ErrorIs(t, err, store.ErrReopen)
				require.True(t, isGone(err), "%v", err)
			}
			<-s.Failed()
			_, err = s.Next(t.Context(), "b", 0, 1, 1)
			require.ErrorIs(t, err, store.ErrReopen, "the reason stands beside the error of reading")
			require.NoError(t, s.Close())
			again, err := Open(t.Context(), options)
			if !anew {
				require.ErrorContains(t, err, "3D000")
				return
			}
			require.NoError(t, err)
			require.NoError(t, again.Close())
		})
	}
}

func second[T any](_ T, err error) error { return err }

// A database that has an older copy, or tables that were emptied, is counted anew.
// Mail that is answered with success can be handed out, and limits hold: for the mail
// that is there, neither for mail that was there nor for more.
func TestTruncated(t *testing.T) {
	tables := []string{"mailbox", "share", "total", "entry", "gone", "note"}
	seed := seeds.Of(t, crashSeed)
	for i, table := range append(tables, "mailbox RESTART IDENTITY", "entry, {s}.gone", "mailbox, {s}.entry", "") {
		t.Run(cmp.Or(table, "older copy"), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			running := random.IntN(2) == 0
			t.Log("running:", running)
			options := fresh(t)
			s := open(t, options)
			before := random.Perm(20)[:1+random.IntN(19)]
			putEach(t, s, before, 1)
			if random.IntN(2) == 0 {
				_, err := s.Ack(t.Context(), "b", s.firstID(t, "b"))
				require.NoError(t, err)
			}
			set := func() { execute(t, options, `TRUNCATE {s}.`+table) }
			if table == "" {
				back := backup(t, options)
				set = func() { back(t) }
				putEach(t, s, []int{100, 101, 102}, 1)
			}
			if !running {
				require.NoError(t, s.Close())
			}
			set()
			if !running {
				s = open(t, options)
			}
			defer func() { require.NoError(t, s.Close()) }()
			putEach(t, s, []int{50, 51}, 1) // if it is noticed, it is noticed at the first
			require.Subset(t, numbersIn(t, s), []int{50, 51})
			requireCounted(t, s)
			putEach(t, s, before, 0)
			got := numbersIn(t, s)
			if table != "gone" && table != "entry" && table != "" {
				for _, n := range before {
					require.True(t, slices.Contains(got, n) || isAcknowledged(t, options, n), "mail %d is a copy of nothing", n)
				}
			}
			requireCounted(t, s)
			requireLimits(t, s)
		})
	}
}

// putEach puts mails that are numbered; stored is 1 if each must be new.
func putEach(t *testing.T, s *Store, numbers []int, stored int) {
	t.Helper()
	for _, n := range numbers {
		was, err := s.Put(t.Context(), mail(n), store.Limits{})
		require.NoError(t, err)
		require.True(t, was || stored == 0, "mail %d", n)
	}
}

// numbersIn returns the numbers of all mail that is handed out to b.
func numbersIn(t *testing.T, s *Store) (numbers []int) {
	t.Helper()
	entries, err := s.Next(t.Context(), "b", 0, 10_000, math.MaxInt64)
	require.NoError(t, err)
	for _, e := range entries {
		n := 0
		_, err := fmt.Sscanf(string(e.Body), `{"pdus":[%d]}`, &n)
		require.NoError(t, err)
		numbers = append(numbers, n)
	}
	return numbers
}

// isAcknowledged reports whether mail is remembered as such.
func isAcknowledged(t *testing.T, options Options, n int) bool {
	m := newPut(mail(n), store.Limits{})
	return execute(t, options, `SELECT FROM {s}.gone WHERE copy_key = $1`, m.key[:]) == 1
}

// requireCounted requires that all counted mail is there.
func requireCounted(t *testing.T, s *Store) {
	t.Helper()
	entries := int64(len(numbersIn(t, s)))
	for _, name := range []spec.ServerName{"b", ""} {
		usage, err := s.Usage(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, entries, usage.Entries, "usage of %q", name)
		require.Zero(t, usage.SetAside)
	}
}

// requireLimits requires that each limit holds to the entry.
func requireLimits(t *testing.T, s *Store) {
	t.Helper()
	have := int64(len(numbersIn(t, s)))
	for n, limit := range []func(int64) store.Limits{
		func(n int64) store.Limits { return store.Limits{Entries: n} },
		func(n int64) store.Limits { return store.Limits{OriginEntries: n} },
		func(n int64) store.Limits { return store.Limits{StoreEntries: n} },
	} {
		_, err := s.Put(t.Context(), mail(200+n), limit(have))
		require.ErrorIs(t, err, store.ErrFull)
		_, err = s.Put(t.Context(), mail(200+n), limit(have+1))
		require.NoError(t, err)
		have++
	}
}

// A server that can be read and not written to is no reason to end, and the store
// goes on when that is over.
func TestReadOnly(t *testing.T) {
	server := pgtest.New(t)
	options := Options{ConnString: server.Database(t), SweepInterval: 10 * time.Millisecond}
	s := open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	putMany(t, 3, s)
	execute(t, options, `ALTER SYSTEM SET default_transaction_read_only = on`)
	execute(t, options, `SELECT pg_reload_conf()`)
	conn := dial(t, options.ConnString)
	require.Eventually(t, func() bool {
		var on string
		require.NoError(t, conn.QueryRow(t.Context(), `SHOW default_transaction_read_only`).Scan(&on))
		return on == "on"
	}, patience, time.Millisecond)
	require.NoError(t, s.tick(t.Context()), "a default is no prohibition")
	putEach(t, s, []int{10}, 1)
	require.ElementsMatch(t, []int{0, 1, 2, 10}, numbersIn(t, s))
}

// When the disk is full that has the server's own log, the server ends. The store
// goes on when there is room, and has all mail that it said that it has.
func TestFullLog(t *testing.T) {
	need.Root(t)
	server := pgtest.New(t)
	options := Options{ConnString: server.Database(t)}
	logs := filepath.Join(server.Dir(), "data", "pg_wal")
	server.Stop(t)
	info, err := os.Stat(logs)
	require.NoError(t, err)
	owner := info.Sys().(*syscall.Stat_t)
	kept := logs + ".kept"
	require.NoError(t, os.Rename(logs, kept))
	require.NoError(t, os.Mkdir(logs, 0o700))
	mount(t, logs, "size=40m")
	require.NoError(t, os.CopyFS(logs, os.DirFS(kept)))
	require.NoError(t, filepath.WalkDir(logs, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, int(owner.Uid), int(owner.Gid)), os.Chmod(path, 0o700))
	}))
	server.Start(t, "min_wal_size=32MB", "wal_recycle=off")
	s := open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	answered := make(map[store.Digest]bool)
	filler := filepath.Join(logs, "filler")
	require.NoError(t, os.WriteFile(filler, make([]byte, 16<<20), 0o600))
	for n := 0; ; n++ {
		require.Less(t, n, 1000)
		m := large(n, 200_000)
		if _, err := s.Put(t.Context(), m, store.Limits{}); err != nil {
			break
		}
		answered[m.Digest] = true
	}
	require.NotEmpty(t, answered)
	require.NoError(t, os.Remove(filler))
	server.Kill()
	server.Start(t)
	putEach(t, s, []int{2000}, 1)
	entries, err := s.Next(t.Context(), "b", 0, 10_000, math.MaxInt64)
	require.NoError(t, err)
	for _, e := range entries {
		delete(answered, e.Digest)
	}
	require.Empty(t, answered)
	select {
	case <-s.Failed():
		t.Fatal(s.Failure())
	default:
	}
}

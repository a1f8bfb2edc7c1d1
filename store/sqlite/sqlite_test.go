package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, Options{SweepInterval: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func mail(n int) store.Mail {
	m := store.Mail{Destination: "b", Origin: "a", TransactionID: "1", Body: []byte(`{"pdus":[]}`)}
	m.Digest[0], m.Digest[1], m.Digest[2], m.Digest[3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
	return m
}

func put(t testing.TB, s *Store, m store.Mail) {
	t.Helper()
	stored, err := s.Put(context.Background(), m, store.Limits{})
	require.NoError(t, err)
	require.True(t, stored)
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "odd name?%41#.db")
	s := open(t, path)
	_, err := Open(path, Options{})
	require.ErrorContains(t, err, "in use")

	link := filepath.Join(dir, "link.db")
	require.NoError(t, os.Symlink(path, link))
	_, err = Open(link, Options{})
	require.ErrorContains(t, err, "in use")

	hard := filepath.Join(dir, "hard.db")
	require.NoError(t, os.Link(path, hard))
	_, err = Open(hard, Options{})
	require.ErrorContains(t, err, "hard links")
	require.NoError(t, os.Remove(hard))

	// The one that was refused took nothing from the one that has the file:
	// SQLite still knows that it is in use.
	put(t, s, mail(1))
	other, err := sql.Open("sqlite", dsn(path))
	require.NoError(t, err)
	_, err = other.Exec("SELECT count(*) FROM entry")
	require.NoError(t, err)
	require.NoError(t, other.Close())
	require.FileExists(t, path+"-wal", "nobody else may take the log away")
	put(t, s, mail(2))

	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "mail is private")

	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	again, err := Open(path, Options{})
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

func TestPragmasAreInForce(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "relay.db"))
	conns := []*sql.Conn{s.writer.conn}
	for range maxReaders {
		c := <-s.reader.conns
		conns = append(conns, c.conn)
		defer func() { s.reader.conns <- c }()
	}
	for _, c := range conns {
		for _, p := range pragmas {
			var got string
			require.NoError(t, c.QueryRowContext(t.Context(), "PRAGMA "+p.name).Scan(&got))
			require.Equal(t, p.value, got, p.name)
		}
	}
	var version string
	require.NoError(t, conns[0].QueryRowContext(t.Context(), "SELECT sqlite_version()").Scan(&version))
	var major, minor, patch int
	_, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch)
	require.NoError(t, err)
	require.GreaterOrEqual(t, major*1_000_000+minor*1000+patch, 3_051_003, "older ones can corrupt a WAL")
}

func TestVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	require.NoError(t, open(t, path).Close())
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.Exec("PRAGMA user_version = 99")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	_, err = Open(path, Options{})
	require.ErrorContains(t, err, "version 99")

	garbage := filepath.Join(t.TempDir(), "garbage.db")
	require.NoError(t, os.WriteFile(garbage, []byte(strings.Repeat("not a database ", 1000)), 0o600))
	_, err = Open(garbage, Options{})
	require.Error(t, err)
}

// No statement on the way of a request may look at more rows than it needs.
func TestQueriesUseIndexes(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "relay.db"))
	var queries []string
	for _, p := range append((&statements{}).list(), (&readConn{}).list()...) {
		queries = append(queries, p.query)
	}
	for _, p := range append((&statements{}).entryQueries(), (&readConn{}).entryQueries()...) {
		queries = append(queries, p.text)
	}
	for _, query := range queries {
		if strings.HasPrefix(query, "PRAGMA") || strings.HasPrefix(query, "SELECT origin, ") { // the operator's lists of senders are sums
			continue
		}
		require.NotContains(t, query, "LIMIT ?", "it would be prepared at each use")
		rows, err := s.writer.conn.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...)
		require.NoError(t, err, query)
		for rows.Next() {
			var id, parent, unused int
			var detail string
			require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
			if strings.HasPrefix(detail, "SCAN") && detail != "SCAN total" && detail != "SCAN sqlite_sequence" && detail != "SCAN CONSTANT ROW" {
				t.Errorf("%s\n%s", query, detail)
			}
			require.NotContains(t, detail, "TEMP B-TREE", query)
			if strings.HasPrefix(query, "SELECT id FROM entry") && strings.Contains(detail, "entry_") {
				require.Contains(t, detail, "COVERING", "a list must not need the rows: %s", query)
			}
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
	}
}

// An acknowledgement of very much doesn't hold up writers.
func TestAckInSteps(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "relay.db"))
	const count = 3*sweepStep + 10
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() { put(t, s, mail(i)) })
	}
	all.Wait()
	entries, err := s.Next(t.Context(), "b", 0, count, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, entries, count)

	commits := 0
	old := s.writer.queue
	s.writer.queue = group.New(func(jobs []*job) { commits++; s.writer.commit(jobs) }, s.writer.afterCommit)
	old.Close()
	removed, err := s.Ack(t.Context(), "b", entries[count-2].ID)
	require.NoError(t, err)
	require.Equal(t, count-1, removed)
	require.Equal(t, 4, commits, "between which others have their turn")
	usage, err := s.Usage(t.Context(), "b")
	require.NoError(t, err)
	require.EqualValues(t, 1, usage.Entries)
}

// Mail that expired while nobody looked is removed when the room is needed.
func TestExpiredMakesRoom(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "relay.db"))
	for i := range 10 {
		m := mail(i)
		m.Lifetime = time.Nanosecond
		put(t, s, m)
	}
	time.Sleep(2 * time.Millisecond) // a lifetime
	stored, err := s.Put(t.Context(), mail(11), store.Limits{Entries: 1})
	require.NoError(t, err)
	require.True(t, stored)
}

// Mail that is removed leaves the disk, in steps.
func TestSweepGivesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	s, err := Open(path, Options{SweepInterval: time.Hour, Retention: time.Millisecond})
	require.NoError(t, err)
	var all sync.WaitGroup
	for i := range 450 {
		all.Go(func() {
			m := mail(i)
			m.Body, m.Lifetime = make([]byte, 64<<10), time.Nanosecond
			put(t, s, m)
		})
	}
	all.Wait()
	require.NoError(t, s.Close())
	before, err := os.Stat(path)
	require.NoError(t, err)

	s, err = Open(path, Options{SweepInterval: time.Hour, Retention: time.Millisecond})
	require.NoError(t, err)
	require.NoError(t, s.sweep(t.Context()))
	time.Sleep(2 * time.Millisecond) // the retention
	require.NoError(t, s.sweep(t.Context()))
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, store.Usage{}, usage)
	for _, table := range []string{"entry", "mailbox", "share"} {
		var n int
		require.NoError(t, s.writer.conn.QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
		require.Zero(t, n, table)
	}
	require.NoError(t, s.Close())
	after, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, after.Size(), before.Size()*2/3)
}

// A Put whose context ended before its turn says so: it isn't a copy.
func TestSkippedIsNoSuccess(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "relay.db"))
	ctx, cancel := context.WithCancel(t.Context())
	j := group.NewJob(ctx, &task{run: func(*batch) error { cancel(); return nil }}, 0)
	late := group.NewJob(ctx, &task{run: func(*batch) error { t.Error("it must not run"); return nil }}, 0)
	s.writer.commit([]*job{j, late}) // nobody else uses the writer
	require.NoError(t, j.Err)
	require.ErrorIs(t, late.Err, context.Canceled)
}

// A page of the table that is gone takes its rows with it, and blocks nobody.
func TestBrokenLeaf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	s, err := Open(path, Options{SweepInterval: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	const count = 200
	for i := range count {
		m := mail(i)
		m.Body = []byte(fmt.Sprintf("body %d of a small mail", i))
		m.Destination = spec.ServerName(fmt.Sprint("d", i%10))
		if i%10 == 9 {
			m.Lifetime = time.Nanosecond
		}
		put(t, s, m)
	}
	require.NoError(t, s.Close())
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	at := strings.Index(string(file), "body 100 of a small mail") / pageSize * pageSize
	require.Positive(t, at)
	clear(file[at : at+pageSize])
	require.NoError(t, os.WriteFile(path, file, 0o600))

	s, err = Open(path, Options{SweepInterval: time.Hour, Retention: time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	readable := 0
	for i := range 9 {
		name := spec.ServerName(fmt.Sprint("d", i))
		entries, err := s.Next(t.Context(), name, 0, count, math.MaxInt64)
		require.NoError(t, err)
		readable += len(entries)
		_, err = s.Ack(t.Context(), name, entries[len(entries)-1].ID)
		require.NoError(t, err)
		_, err = s.Next(t.Context(), name, 0, count, math.MaxInt64)
		require.ErrorIs(t, err, store.ErrEmpty)
	}
	require.Greater(t, readable, count/2)
	require.NoError(t, s.sweep(t.Context()))
	time.Sleep(2 * time.Millisecond) // the retention
	require.NoError(t, s.sweep(t.Context()))
	put(t, s, mail(count))
}

// A row that SQLite itself can't read blocks nothing: not the rows behind it, not
// acknowledging it, not calls that write at the same time.
func TestBrokenPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	s, err := Open(path, Options{SweepInterval: time.Hour})
	require.NoError(t, err)
	const mark = "0123456789abcdef here is the second entry"
	for i := range 3 {
		m := mail(i)
		m.Body = []byte(strings.Repeat("x", 9000))
		if i == 1 {
			m.Body = []byte(strings.Repeat(mark, 1000))
		}
		put(t, s, m)
	}
	entries, err := s.Next(t.Context(), "b", 0, 3, math.MaxInt64)
	require.NoError(t, err)
	require.NoError(t, s.Close())

	// Break the chain of the pages that hold its body.
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	const page = 4096
	broken := 0
	for at := page; at+page <= len(file); at += page {
		if strings.Contains(string(file[at:at+page]), mark) && file[at] == 0 {
			copy(file[at:at+4], []byte{0x7f, 0xff, 0xff, 0xf0})
			copy(file[page+5*(at/page+1-3)+1:], []byte{0, 0, 0, 0}) // the other way to the next page
			broken++
		}
	}
	require.Positive(t, broken)
	require.NoError(t, os.WriteFile(path, file, 0o600))

	s = open(t, path)
	got, err := s.Next(t.Context(), "b", 0, 3, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Equal(t, entries[0], got[0])
	require.Equal(t, entries[2], got[1])
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() { put(t, s, mail(100+i)) })
	}
	all.Go(func() {
		_, err := s.Ack(context.Background(), "b", entries[2].ID)
		require.NoError(t, err)
	})
	all.Wait()
	got, err = s.Next(t.Context(), "b", 0, 3, math.MaxInt64)
	require.NoError(t, err)
	require.Greater(t, got[0].ID, entries[2].ID)
}

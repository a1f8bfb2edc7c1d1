//go:build unix

package postgres

import (
	"bytes"
	"cmp"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
)

// large is mail that can't be compressed.
func large(n, size int) store.Mail {
	m := mail(n)
	m.Body = bodyOf(m.Digest, size)
	return m
}

// On a full disk mail is refused; when there is room again the store goes on.
func TestFullDisk(t *testing.T) {
	need.Root(t)
	server := pgtest.Shared(t)
	dir, err := os.MkdirTemp(server.Dir(), "small")
	require.NoError(t, err)
	info, err := os.Stat(server.Dir())
	require.NoError(t, err)
	mount(t, dir, "size=24m")
	owner := info.Sys().(*syscall.Stat_t)
	space := filepath.Join(dir, "space")
	require.NoError(t, os.Mkdir(space, 0o700))
	for _, path := range []string{dir, space} {
		require.NoError(t, os.Chown(path, int(owner.Uid), int(owner.Gid)))
	}
	filler := filepath.Join(dir, "filler")
	require.NoError(t, os.WriteFile(filler, make([]byte, 8<<20), 0o600))

	options := Options{ConnString: server.Database(t)}
	execute(t, options, `CREATE TABLESPACE small LOCATION '`+space+`'`)
	t.Cleanup(func() {
		execute(t, options, `DROP SCHEMA {s} CASCADE`)
		execute(t, options, `DROP TABLESPACE small`)
	})
	options.ConnString += "&default_tablespace=small"
	s := open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	putMany(t, 1, s)
	removed, err := s.Ack(t.Context(), "b", s.firstID(t, "b")) // so the table that remembers it has a page
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	kept := 1
	for ; ; kept++ {
		require.Less(t, kept, 1000)
		if _, err := s.Put(t.Context(), large(kept, 50_000), store.Limits{}); err != nil {
			require.ErrorIs(t, err, store.ErrFull)
			break
		}
	}
	kept--
	require.NotZero(t, kept)
	_, err = s.Put(t.Context(), large(2000, 500_000), store.Limits{})
	require.ErrorIs(t, err, store.ErrFull)
	stored, err := s.Put(t.Context(), large(1, 50_000), store.Limits{})
	require.NoError(t, err, "a copy needs no room")
	require.False(t, stored)
	errs := putTogether(t, s, store.Limits{}, large(2, 50_000), large(2001, 500_000))
	require.NoError(t, errs[0], "a copy that comes with new mail")
	require.ErrorIs(t, errs[1], store.ErrFull)
	entries, err := s.Next(t.Context(), "b", 0, kept+1, math.MaxInt64)
	require.NoError(t, err, "reading goes on")
	require.Len(t, entries, kept)
	_, err = s.Ack(t.Context(), "b", entries[0].ID)
	require.NoError(t, err, "and acknowledging")

	require.NoError(t, os.Remove(filler))
	_, err = s.Put(t.Context(), large(2000, 500_000), store.Limits{})
	require.NoError(t, err)
	usage, err := s.Usage(t.Context(), "b")
	require.NoError(t, err)
	require.EqualValues(t, kept, usage.Entries)
}

// A row that the server itself can't read blocks nothing.
func TestBrokenPage(t *testing.T) {
	server := pgtest.New(t)
	options := Options{ConnString: server.Database(t), Retention: time.Millisecond, SweepInterval: time.Hour}
	s := open(t, options)
	const size = 200_000
	for n := range 4 {
		_, err := s.Put(t.Context(), large(n, size), store.Limits{})
		require.NoError(t, err)
	}
	entries, err := s.Next(t.Context(), "b", 0, 4, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, entries, 4)
	require.NoError(t, s.Close())
	var path string
	err = dial(t, options.ConnString).QueryRow(t.Context(),
		`SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'relay.entry'::regclass`).Scan(&path)
	require.NoError(t, err)

	// Take away a page out of the middle of the second body.
	server.Stop(t)
	path = filepath.Join(server.Dir(), "data", path)
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	const page = 8192
	at := bytes.Index(file, entries[1].Body[size/2:size/2+50]) / page * page
	require.Positive(t, at)
	clear(file[at : at+page])
	require.NoError(t, os.WriteFile(path, file, 0o600))
	server.Start(t)

	s = open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	got, err := s.Next(t.Context(), "b", 0, 4, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, got, 3)
	require.Equal(t, []int64{entries[0].ID, entries[2].ID, entries[3].ID}, []int64{got[0].ID, got[1].ID, got[2].ID})
	usage, err := s.Usage(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, store.Usage{Entries: 3, Bytes: 3 * size, SetAside: 1}, usage)
	removed, err := s.Ack(t.Context(), "b", entries[3].ID)
	require.NoError(t, err)
	require.Equal(t, 3, removed)
	putMany(t, 100, s)
}

// A value that the server refuses of one is not refused of those that are committed
// with it.
func TestRefusedAlone(t *testing.T) {
	s := open(t, fresh(t))
	defer func() { require.NoError(t, s.Close()) }()
	mails := []store.Mail{mail(0), mail(1), mail(2)}
	mails[1].Destination = spec.ServerName(bodyOf(mails[1].Digest, 10_000))
	errs := putTogether(t, s, store.Limits{}, mails...)
	require.NoError(t, errs[0])
	require.ErrorContains(t, errs[1], "54000")
	require.NoError(t, errs[2])
	entries, err := s.Next(t.Context(), "b", 0, 10, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, entries, 2)
}

// putTogether puts mails that are committed together, and returns the error of
// each.
func putTogether(t *testing.T, s *Store, limits store.Limits, mails ...store.Mail) (errs []error) {
	var puts []*put
	var jobs []*job
	for _, m := range mails {
		puts = append(puts, newPut(m, limits))
		jobs = append(jobs, group.NewJob(t.Context(), work(puts[len(puts)-1]), m.Size()))
	}
	s.writer.commit(jobs) // nobody else uses the writer
	for i, j := range jobs {
		errs = append(errs, cmp.Or(j.Err, puts[i].refused))
	}
	return errs
}

// A holding keeps its transaction open.
type holding struct{ begun, end chan struct{} }

func (h *holding) touches() []spec.ServerName { return nil }
func (h *holding) ask(*batch, *pgx.Batch)     {}

func (h *holding) decide(*batch) error {
	close(h.begun)
	<-h.end
	return nil
}

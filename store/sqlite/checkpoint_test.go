package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A foreignReader reads the database as another program does, until end.
func foreignReader(t *testing.T, path string) (end func()) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path))
	require.NoError(t, err)
	tx, err := db.Begin()
	require.NoError(t, err)
	var n int
	require.NoError(t, tx.QueryRow("SELECT count(*) FROM entry").Scan(&n))
	return func() {
		require.NoError(t, tx.Rollback())
		require.NoError(t, db.Close())
	}
}

// large returns mail of that many bytes.
func large(n, size int) store.Mail {
	m := mail(n)
	m.Body = bytes.Repeat([]byte{'x'}, size)
	return m
}

// Another program that reads the database for long holds nobody up: no
// checkpoint waits for it, and the store can be opened beside it.
func TestForeignReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	var said bytes.Buffer
	options := Options{SweepInterval: time.Hour, Logger: slog.New(slog.NewTextHandler(&said, nil)), checkpointBytes: 1 << 20}
	s, err := Open(path, options)
	require.NoError(t, err)
	put(t, s, mail(0))
	end := foreignReader(t, path)

	// A call that waits for it now waits until the test is over.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	const size, count = 512 << 10, 14
	for n := range count {
		require.NoError(t, s.writer.do(ctx, func(*batch) error { return s.writer.exec("PRAGMA busy_timeout = 3600000") }, 0))
		stored, err := s.Put(ctx, large(1+n, size), store.Limits{})
		require.NoError(t, err)
		require.True(t, stored)
	}
	sizes, err := s.Sizes(ctx)
	require.NoError(t, err)
	require.Greater(t, sizes.Log, int64(size*count))
	require.NoError(t, s.Close())
	require.Equal(t, 1, strings.Count(said.String(), "the log can't shrink"), "one warning a minute")

	s, err = Open(path, options)
	require.NoError(t, err, "beside a reader")
	entries, err := s.Next(ctx, "b", 0, 1000, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, entries, 1+count)
	end()
	for n := range 4 { // each adds enough for a checkpoint
		put(t, s, large(100+n, 2*size))
	}
	require.NoError(t, s.writer.do(ctx, func(*batch) error { return nil }, 0)) // after the last checkpoint
	sizes, err = s.Sizes(ctx)
	require.NoError(t, err)
	require.Less(t, sizes.Log, int64(size*count), "it shrinks when nobody reads it")
	require.Greater(t, sizes.File, int64(size*count))
	require.NoError(t, s.Close())
}

// The log begins anew beside reads of this process that never leave a gap: each begins
// before the one before it ends, and is under way when more is written.
func TestLogAmongReads(t *testing.T) {
	s := openQuietly(t, filepath.Join(t.TempDir(), "relay.db"), Options{checkpointBytes: 1 << 20})
	put(t, s, mail(0))
	const size, count = 512 << 10, 16
	end := beginRead(t, s)
	for n := range count {
		written := make(chan error, 1)
		go func() {
			_, err := s.Put(context.Background(), large(1+n, size), store.Limits{})
			noop := func(*batch) error { return nil } // its turn comes after the checkpoint
			written <- errors.Join(err, s.writer.do(context.Background(), noop, 0))
		}()
		for isWritten := false; !isWritten; {
			select {
			case err := <-written:
				require.NoError(t, err)
				isWritten = true
			case <-time.After(time.Millisecond):
				if len(s.reader.conns) == 0 { // all reads are held up
					end()
				}
			}
		}
		next := beginRead(t, s)
		end()
		end = next
	}
	end()
	sizes, err := s.Sizes(t.Context())
	require.NoError(t, err)
	require.Less(t, sizes.Log, int64(size*count*3/4))
}

// beginRead begins a read that goes on until end is called, which may be called twice.
func beginRead(t *testing.T, s *Store) (end func()) {
	t.Helper()
	c := <-s.reader.conns
	var n int
	_, err := c.conn.ExecContext(t.Context(), "BEGIN")
	require.NoError(t, err)
	require.NoError(t, c.conn.QueryRowContext(t.Context(), "SELECT count(*) FROM total").Scan(&n))
	return sync.OnceFunc(func() {
		_, err := c.conn.ExecContext(t.Context(), "ROLLBACK")
		require.NoError(t, err)
		s.reader.conns <- c
	})
}

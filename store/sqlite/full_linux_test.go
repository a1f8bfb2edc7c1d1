package sqlite

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// openOnFullDisk returns a store that was opened on a disk without a byte of room, and has
// so much mail of a size, each for the destination that it gets.
func openOnFullDisk(t *testing.T, count, size int, to func(n int) spec.ServerName) (s *Store, dir string) {
	t.Helper()
	dir = smallDisk(t, "24m")
	options := Options{SweepInterval: -1, Logger: slog.New(slog.DiscardHandler)}
	s, err := Open(filepath.Join(dir, "relay.db"), options)
	require.NoError(t, err)
	for n := 0; n < count; n += 50 {
		var mails []store.Mail
		for i := n; i < n+50; i++ {
			m := mail(i)
			m.Destination, m.Body = to(i), bytes.Repeat([]byte{byte(i)}, size)
			mails = append(mails, m)
		}
		require.NoError(t, s.PutAll(t.Context(), mails))
	}
	require.NoError(t, s.Close())
	fillDisk(t, dir)
	return openQuietly(t, filepath.Join(dir, "relay.db"), options), dir
}

func toOne(int) spec.ServerName { return "b" }

func toEach(n int) spec.ServerName { return spec.ServerName(fmt.Sprintf("%03d", n)) }

// On a full disk many entries can be removed at once, and the file gives back their room.
func TestManyRemovedOnFullDisk(t *testing.T) {
	const count = 500
	for _, how := range []string{"Ack", "Remove"} {
		t.Run(how, func(t *testing.T) {
			s, dir := openOnFullDisk(t, count, 20_000, toOne)
			_, err := s.Put(t.Context(), mail(count), store.Limits{})
			require.ErrorIs(t, err, store.ErrFull)
			listed, err := s.List(t.Context(), "b", 0, count)
			require.NoError(t, err)
			var removed int
			if how == "Ack" {
				removed, err = s.Ack(t.Context(), "b", listed[count-1].ID)
			} else {
				var ids []int64
				for _, l := range listed {
					ids = append(ids, l.ID)
				}
				removed, err = s.Remove(t.Context(), "b", ids)
			}
			require.NoError(t, err)
			require.Equal(t, count, removed)
			require.NoError(t, s.sweep(t.Context()))
			put(t, s, mail(count))
			require.NoError(t, os.Remove(filepath.Join(dir, "filler")))
		})
	}
}

// Many small steps that share a commit are done one by one if the disk has no room for it.
func TestManyAcksAtOnceOnFullDisk(t *testing.T) {
	const count = 250
	s, _ := openOnFullDisk(t, count, 3000, toEach)
	begun, held, outcomes := make(chan struct{}, 1), make(chan struct{}), make(chan error, count+1)
	go func() {
		outcomes <- s.writer.do(t.Context(), func(*batch) error { begun <- struct{}{}; <-held; return nil }, 0)
	}()
	<-begun
	for n := range count {
		entries, err := s.Next(t.Context(), toEach(n), 0, 1, math.MaxInt64)
		require.NoError(t, err)
		go func() {
			_, err := s.Ack(t.Context(), toEach(n), entries[0].ID)
			outcomes <- err
		}()
	}
	for s.writer.queue.Len() < count {
		time.Sleep(time.Millisecond)
	}
	close(held)
	for range count + 1 {
		require.NoError(t, <-outcomes)
	}
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.Zero(t, usage.Entries)
}

package sqlite

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// Mail that removeOdd removes or not.
func oddOrEven(n int) store.Mail {
	m := mail(n)
	m.Origin = "even"
	if n%2 == 1 {
		m.Origin = "odd"
	}
	return m
}

func removeOdd(s *Store) error {
	listed, err := s.List(context.Background(), "b", 0, 1<<20)
	if err != nil {
		return err
	}
	var ids []int64
	for _, l := range listed {
		if l.Origin == "odd" {
			ids = append(ids, l.ID)
		}
	}
	_, err = s.Remove(context.Background(), "b", ids)
	return err
}

// A process that is killed while it removes mail leaves each entry there or not, the
// counts right, and the removed mail known.
func TestRemoveThenKilled(t *testing.T) {
	const all = 1600
	path, dice := filepath.Join(t.TempDir(), "relay.db"), rand.New(rand.NewPCG(seeds.Of(t, "RELAY_SQLITE_SEED"), 0))
	s, err := Open(path, Options{})
	require.NoError(t, err)
	var mails []store.Mail
	for n := range all {
		mails = append(mails, oddOrEven(n))
	}
	require.NoError(t, s.PutAll(t.Context(), mails))
	require.NoError(t, s.Close())

	left := int64(all)
	for range seeds.Count(t, "RELAY_SQLITE_ROUNDS", 4) {
		c := startChild(t, path)
		require.Equal(t, "ok", c.do("noop"))
		_, err := fmt.Fprintln(c.in, "remove")
		require.NoError(t, err)
		time.Sleep(time.Duration(dice.Int64N(int64(80 * time.Millisecond))))
		require.NoError(t, c.cmd.Process.Kill())
		_ = c.cmd.Wait() // it was killed
		_, _ = io.Copy(io.Discard, c.out)
		left = requireCounted(t, path, mails, left)
		t.Logf("%d are left", left)
	}
}

// requireCounted opens the database, where each count is compared with the entries,
// and requires that no more mail is there than before and that all of it is known.
func requireCounted(t *testing.T, path string, mails []store.Mail, before int64) (left int64) {
	t.Helper()
	var said strings.Builder
	s, err := Open(path, Options{Logger: slog.New(slog.NewTextHandler(&said, nil))})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	require.Empty(t, said.String(), "it had to be repaired")
	usage, err := s.Usage(t.Context(), "b")
	require.NoError(t, err)
	senders, err := s.Senders(t.Context(), "b", 10)
	require.NoError(t, err)
	sum := int64(0)
	for _, sender := range senders {
		if sum += sender.Entries; sender.Origin == "even" {
			require.EqualValues(t, len(mails)/2, sender.Entries, "others were removed")
		}
	}
	require.Equal(t, usage.Entries, sum)
	require.LessOrEqual(t, sum, before, "removed mail is back")
	require.NoError(t, s.PutAll(t.Context(), mails))
	again, err := s.Usage(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, usage, again, "removed mail isn't known")
	return sum
}

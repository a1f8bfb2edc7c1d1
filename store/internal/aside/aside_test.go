package aside

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var errBad, errDisk = errors.New("damaged"), errors.New("the disk is slow")

// box is a mailbox of which some entries can't be read.
type box struct {
	ids    []int64
	bad    map[int64]bool
	err    error // of setting aside
	aside  []int64
	reader Reader
}

func newBox(ids []int64, bad ...int64) *box {
	b := &box{ids: ids, bad: make(map[int64]bool)}
	for _, id := range bad {
		b.bad[id] = true
	}
	b.reader = Reader{
		Read: b.read, Live: b.live, SetAside: b.setAside, Log: slog.New(slog.DiscardHandler),
		IsDamage: func(err error) bool { return errors.Is(err, errBad) },
	}
	return b
}

func (b *box) live(_ context.Context, q Query) (ids []int64, err error) {
	for _, id := range b.ids {
		if id > q.After && len(ids) < q.Entries {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (b *box) read(ctx context.Context, q Query) (entries []store.Entry, damaged []Damage, err error) {
	ids, err := b.live(ctx, q)
	for _, id := range ids {
		if b.bad[id] {
			damaged = append(damaged, Damage{id, errBad})
		} else {
			entries = append(entries, store.Entry{ID: id})
		}
	}
	return entries, damaged, err
}

func (b *box) setAside(ctx context.Context, _ spec.ServerName, id int64) error {
	b.aside = append(b.aside, id)
	return errors.Join(ctx.Err(), b.err)
}

// Damaged entries are passed over, however many there are, and set aside
// though its reader goes away.
func TestNext(t *testing.T) {
	b := newBox([]int64{1, 2, 3, 4, 5}, 1, 2, 3, 5)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	entries, err := b.reader.Next(ctx, Query{Entries: 2})
	require.NoError(t, err)
	require.Equal(t, []store.Entry{{ID: 4}}, entries)
	require.Equal(t, []int64{1, 2, 3}, b.aside)
	_, err = b.reader.Next(t.Context(), Query{After: 4, Entries: 2})
	require.ErrorIs(t, err, store.ErrEmpty)
	require.Equal(t, []int64{1, 2, 3, 5}, b.aside)
}

// An entry that can't even be set aside is passed over if that won't change, and isn't
// waited for.
func TestStuck(t *testing.T) {
	b := newBox([]int64{1, 2}, 1)
	for _, c := range []struct {
		err   error
		tries int
	}{{errDisk, 3}, {errBad, 1}} {
		b.err, b.aside = c.err, nil
		for range 3 {
			entries, err := b.reader.Next(t.Context(), Query{Entries: 2})
			require.NoError(t, err)
			require.Len(t, entries, 1)
		}
		require.Len(t, b.aside, c.tries)
	}
	require.NoError(t, b.reader.Any(t.Context(), "", 0))
	require.ErrorIs(t, b.reader.Any(t.Context(), "", 2), store.ErrEmpty)
	b.ids = b.ids[:1]
	require.ErrorIs(t, b.reader.Any(t.Context(), "", 0), store.ErrEmpty)
}

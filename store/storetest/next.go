package storetest

import (
	"bytes"
	"math"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var nextTests = []test{
	{"an empty mailbox", testNextEmpty},
	{"order and after", testNextAfter},
	{"maxEntries", testNextMaxEntries},
	{"limits below 1", testLimitsBelowOne},
	{"maxBytes", testNextMaxBytes},
	{"maxBytes doesn't skip", testNextMaxBytesDoesNotSkip},
	{"mailboxes are kept apart", testNextApart},
	{"nothing is taken away", testNextTakesNothing},
}

func testNextEmpty(r *rig) {
	r.empty(here)
	r.keep(letter(there, 1))
	r.empty(here)
	r.keep(letter(here, 1))
	r.ack(here, r.holds(here, letter(here, 1))[0].ID)
	r.empty(here)
	r.holds(there, letter(there, 1))
}

// A limit below 1 counts as 1, wherever there is one.
func testLimitsBelowOne(r *rig) {
	_, entries := r.interleave(3)
	for _, limit := range []int{0, -1, math.MinInt} {
		require.Equal(r, ids(entries[:1]), r.nextIDs(0, limit, plenty))
		require.Equal(r, ids(entries[:1]), r.nextIDs(0, 3, int64(limit)))
		page, err := r.Destinations(r.Context(), "", limit)
		require.NoError(r, err)
		require.Equal(r, []spec.ServerName{here}, page)
		if notes, ok := r.Store.(store.Notes); ok {
			note := store.Note{Key: "a", Value: []byte("x")}
			r.set(note, store.Note{Key: "b", Value: []byte("x")})
			page, err := notes.Notes(r.Context(), "", "", limit)
			require.NoError(r, err)
			require.Equal(r, []store.Note{note}, page)
		}
	}
}

// interleave fills two mailboxes by turns and returns the mail of here.
func (r *rig) interleave(n int) (mails []store.Mail, entries []store.Entry) {
	r.Helper()
	mails = letters(here, n)
	for i, mail := range mails {
		r.keep(mail, letter(there, 2*i), letter(there, 2*i+1))
	}
	return mails, r.holds(here, mails...)
}

func (r *rig) nextIDs(after int64, maxEntries int, maxBytes int64) []int64 {
	r.Helper()
	entries, err := r.Next(r.Context(), here, after, maxEntries, maxBytes)
	require.NoError(r, err)
	return ids(entries)
}

func testNextAfter(r *rig) {
	_, entries := r.interleave(5)
	all := ids(entries)
	for i, id := range all {
		require.Equal(r, all[i:], r.nextIDs(id-1, 10, plenty))
		for _, after := range []int64{id, id + 1} {
			want := all[i+1:]
			if len(want) > 0 && want[0] <= after {
				want = want[1:]
			}
			if len(want) > 0 {
				require.Equal(r, want, r.nextIDs(after, 10, plenty))
			}
		}
	}
	for _, after := range []int64{all[4], all[4] + 1, all[4] + 1000, store.MaxID, math.MaxInt64} {
		none, err := r.Next(r.Context(), here, after, 10, plenty)
		require.ErrorIs(r, err, store.ErrEmpty, "after %d", after)
		require.Empty(r, none)
	}
	// An acknowledged entry is still a place to go on from.
	r.ack(here, all[2])
	require.Equal(r, all[3:], r.nextIDs(all[1], 10, plenty))
	require.Equal(r, all[3:], r.nextIDs(all[2], 10, plenty))
	require.Equal(r, all[4:], r.nextIDs(all[3], 10, plenty))
}

func testNextMaxEntries(r *rig) {
	_, entries := r.interleave(5)
	all := ids(entries)
	for n := 1; n <= 7; n++ {
		require.Equal(r, all[:min(n, 5)], r.nextIDs(0, n, plenty))
		require.Equal(r, all[2:min(2+n, 5)], r.nextIDs(all[1], n, plenty))
	}
	require.Equal(r, all, r.nextIDs(0, math.MaxInt32, math.MaxInt64))
}

func testNextMaxBytes(r *rig) {
	for i := range 5 {
		r.keep(sized(here, i), letter(there, i))
	}
	all := ids(r.all(here))
	for _, c := range []struct {
		maxBytes int64
		want     int
	}{
		{0, 1}, {1, 1}, {size - 1, 1}, {size, 1}, {size + 1, 1}, {2*size - 1, 1},
		{2 * size, 2}, {3*size - 1, 2}, {3 * size, 3}, {5*size - 1, 4}, {5 * size, 5}, {9 * size, 5}, {math.MaxInt64, 5},
	} {
		require.Equal(r, all[:c.want], r.nextIDs(0, 10, c.maxBytes), "%d bytes", c.maxBytes)
	}
	require.Equal(r, all[1:3], r.nextIDs(all[0], 10, 2*size))
	require.Equal(r, all[:2], r.nextIDs(0, 2, 3*size), "both bounds hold")
}

// An entry that doesn't fit ends the answer, even if a later one would fit: a
// cumulative Ack would destroy it.
func testNextMaxBytesDoesNotSkip(r *rig) {
	large := sized(here, 2)
	large.Body = bytes.Repeat([]byte{'b'}, 20*size)
	r.keep(sized(here, 1), large, sized(here, 3), sized(here, 4))
	all := ids(r.all(here))
	require.Equal(r, all[:1], r.nextIDs(0, 10, 3*size))
	require.Equal(r, all[1:2], r.nextIDs(all[0], 10, 3*size))
	require.Equal(r, all[2:], r.nextIDs(all[1], 10, 3*size))
}

func testNextApart(r *rig) {
	mails, _ := r.interleave(4)
	for _, entry := range r.all(there) {
		require.Equal(r, there, entry.Destination)
	}
	require.Len(r, r.all(there), 8)
	r.holds(here, mails...)
}

func testNextTakesNothing(r *rig) {
	mails := letters(here, 3)
	r.keep(mails...)
	first := r.holds(here, mails...)
	for range 3 {
		require.Equal(r, ids(first), ids(r.holds(here, mails...)))
	}
	require.EqualValues(r, 3, r.usage(here).Entries)
}

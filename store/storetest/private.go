package storetest

import (
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// privateTests are about the two halves of a store.
var privateTests = []test{
	{"a mailbox as others", testPrivateMailbox},
	{"odd names", testPrivateNames},
	{"limits", testPrivateLimits},
	{"destinations", testPrivateDestinations},
	{"usage", testPrivateUsage},
	{"reopen", testPrivateReopen},
}

// The private mailboxes of most tests.
var (
	ours   = store.Private("outbox", here)
	theirs = store.Private("outbox", there)
)

func testPrivateMailbox(r *rig) {
	mails, public := letters(ours, 4), letters(here, 2)
	r.keep(mails...)
	r.keep(public...)
	entries := r.holds(ours, mails...)
	require.Equal(r, ids(entries[1:3]), r.idsOf(ours, entries[0].ID, 2))
	for _, mail := range mails {
		require.False(r, r.put(mail), "a copy")
	}
	r.ignores(here, entries[3].ID)
	require.Equal(r, 2, r.ack(ours, entries[1].ID))
	r.holds(ours, mails[2:]...)
	r.holds(here, public...)
	r.wait(ours, entries[2].ID)
	finish := r.background(func() error {
		_, err := await(r.Context(), r.Store, theirs, 0, 1)
		return err
	})
	settle()
	r.keep(letter(there, 1)) // is no mail for it
	r.keep(letter(theirs, 1))
	finish()
	r.keepSoon(letter(theirs, 2))
	r.eventually("private mail expires", func() bool { return len(r.all(theirs)) == 1 })
}

// idsOf returns the IDs of a page.
func (r *rig) idsOf(destination spec.ServerName, after int64, maxEntries int) []int64 {
	r.Helper()
	page, err := r.Next(r.Context(), destination, after, maxEntries, plenty)
	require.NoError(r, err)
	return ids(page)
}

// privateNames are names on both sides of the border, and of its other side.
var privateNames = []spec.ServerName{
	store.Private("a", "a"), store.Private("a", "a:8448"), store.Private("a", "[::1]"), store.Private("a", longName),
	store.Private("a", ""), store.Private("a-b", "a"), store.Private("ab", "a"), store.Private("b", "A"), "~~", "~ä", "~\xff\xff",
}

// publicNames come before and after the private ones.
var publicNames = []spec.ServerName{"a", "a~b", "}", "}~", "\x7f", "\x7f~", "ä", "\xff"}

func testPrivateNames(r *rig) {
	for _, name := range slices.Concat(privateNames, publicNames) {
		r.keep(letter(name, 1))
	}
	for _, name := range slices.Concat(privateNames, publicNames) {
		r.holds(name, letter(name, 1))
		require.EqualValues(r, 1, r.usage(name).Entries)
	}
	for _, limit := range []int{1, 2, 3, 100} {
		require.Equal(r, slices.Sorted(slices.Values(publicNames)), r.destinations(limit))
		require.Equal(r, slices.Sorted(slices.Values(privateNames)), r.destinationsFrom(store.PrivateHalf, limit))
	}
	for i, name := range privateNames {
		require.Equal(r, 1, r.ack(name, r.all(name)[0].ID))
		require.EqualValues(r, len(privateNames)-i-1, r.usage(store.PrivateHalf).Entries)
	}
	require.EqualValues(r, len(publicNames), r.usage("").Entries)
}

func testPrivateLimits(r *rig) {
	two := store.Limits{StoreEntries: 2, StoreBytes: 2 * size}
	for _, half := range [][]spec.ServerName{{here, there}, {ours, theirs}} {
		r.fits(sized(half[0], 1), two)
		r.fits(sized(half[1], 1), two)
		for _, name := range half {
			r.full(sized(name, 2), store.Limits{StoreEntries: 2})
			r.full(sized(name, 2), store.Limits{StoreBytes: 2 * size})
		}
	}
	r.ack(ours, r.all(ours)[0].ID)
	r.full(sized(here, 2), two)
	r.fits(sized(theirs, 2), two)
	r.full(sized(ours, 2), two)
	r.full(sized(theirs, 3), store.Limits{Entries: 2})
}

func testPrivateDestinations(r *rig) {
	for _, name := range []spec.ServerName{store.Private("a", "b"), store.Private("a", "d"), store.Private("c", "b"), "b", "z"} {
		r.keep(letter(name, 1))
	}
	for _, c := range []struct {
		after spec.ServerName
		want  []spec.ServerName
	}{
		{"", []spec.ServerName{"b", "z"}},
		{"b", []spec.ServerName{"z"}},
		{"z", nil},
		{"}", nil},
		{"\x7f", nil},
		{store.PrivateHalf, []spec.ServerName{"~a/b", "~a/d", "~c/b"}},
		{store.Private("a", ""), []spec.ServerName{"~a/b", "~a/d", "~c/b"}},
		{"~a/b", []spec.ServerName{"~a/d", "~c/b"}},
		{"~a/c", []spec.ServerName{"~a/d", "~c/b"}},
		{store.Private("b", ""), []spec.ServerName{"~c/b"}},
		{"~c/b", nil},
		{"~\xff", nil},
	} {
		page, err := r.Destinations(r.Context(), c.after, 10)
		require.NoError(r, err)
		require.ElementsMatch(r, c.want, page, "after %q", c.after)
		require.True(r, slices.IsSorted(page))
	}
}

func testPrivateUsage(r *rig) {
	public, private := letters(here, 2), append(letters(ours, 3), letters(theirs, 1)...)
	r.keep(public...)
	require.Zero(r, r.usage(store.PrivateHalf))
	r.keep(private...)
	uses := func(public, private []store.Mail) {
		r.Helper()
		r.uses(public, nil)
		require.Equal(r, store.Usage{Entries: int64(len(private)), Bytes: bytesOf(private...)}, r.usage(store.PrivateHalf))
	}
	uses(public, private)
	require.Equal(r, store.Usage{Entries: 3, Bytes: bytesOf(private[:3]...)}, r.usage(ours))
	r.ack(ours, r.all(ours)[1].ID)
	uses(public, private[2:])
	r.ack(here, r.all(here)[1].ID)
	uses(nil, private[2:])
	r.ack(ours, r.all(ours)[0].ID)
	r.ack(theirs, r.all(theirs)[0].ID)
	uses(nil, nil)
	r.eventually("a private mailbox without mail isn't listed", func() bool {
		return len(r.destinationsFrom(store.PrivateHalf, 10)) == 0
	})
}

func testPrivateReopen(r *rig) {
	if r.place.Volatile {
		r.Skip("nothing survives Close")
	}
	public, private := letters(here, 2), letters(ours, 3)
	r.keep(public...)
	r.keep(private...)
	for range 2 {
		r.reopen()
		r.holds(here, public...)
		r.holds(ours, private...)
		r.uses(public, nil)
		require.Equal(r, store.Usage{Entries: 3, Bytes: bytesOf(private...)}, r.usage(store.PrivateHalf))
		require.Equal(r, []spec.ServerName{ours}, r.destinationsFrom(store.PrivateHalf, 10))
	}
}

package storetest

import (
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var reopenTests = []test{
	{"every field comes back", testReopenRoundTrip},
	{"mailboxes", testReopenMailboxes},
	{"copies", testReopenCopies},
	{"IDs never come back", testReopenIDs},
	{"limits", testReopenLimits},
	{"waits", testReopenWaits},
	{"expiry", testReopenExpiry},
}

// reopenForgettingTests run with a short retention.
var reopenForgettingTests = []test{
	{"IDs never come back", testReopenIDsForgotten},
}

func testReopenRoundTrip(r *rig) {
	mails := oddMails()
	r.keep(mails...)
	before := r.holds(here, mails...)
	r.reopen()
	require.Equal(r, ids(before), ids(r.holds(here, mails...)))
}

func testReopenMailboxes(r *rig) {
	mails, entries := r.interleave(4)
	r.ack(here, entries[1].ID)
	usage, destinations := r.usage(""), r.destinations(10)
	for range 3 {
		r.reopen()
		r.holds(here, mails[2:]...)
		require.Len(r, r.all(there), 8)
		require.Equal(r, usage, r.usage(""))
		require.Equal(r, store.Usage{Entries: 2, Bytes: bytesOf(mails[2:]...)}, r.usage(here))
		require.Equal(r, destinations, r.destinations(10))
		r.ignores(here, entries[0].ID, entries[1].ID)
	}
	require.Equal(r, 2, r.ack(here, entries[3].ID))
	r.reopen()
	r.empty(here)
}

func testReopenCopies(r *rig) {
	mails := letters(here, 4)
	r.keep(mails...)
	r.ack(here, r.holds(here, mails...)[1].ID)
	for range 3 {
		r.reopen()
		for _, mail := range mails {
			require.False(r, r.put(mail))
		}
		r.holds(here, mails[2:]...)
	}
}

func testReopenIDs(r *rig) {
	r.keepsGrowing(r.reopen)
}

// The store has nothing left that an ID could be told from.
func testReopenIDsForgotten(r *rig) {
	mail := letter(here, 1)
	r.keep(mail)
	last := r.all(here)[0].ID
	for range 2 {
		r.ack(here, last)
		r.reopen()
		r.eventually("the mail is stored anew", func() bool { return r.put(mail) })
		entries := r.holds(here, mail)
		require.Greater(r, entries[0].ID, last)
		last = entries[0].ID
	}
}

func testReopenLimits(r *rig) {
	r.keep(sized(here, 1), sized(here, 2))
	r.reopen()
	for _, l := range allLimits {
		r.full(sized(here, 3), l.at(2))
	}
	r.fits(sized(here, 3), store.Limits{Entries: 3, Bytes: 3 * size, OriginEntries: 3, OriginBytes: 3 * size, StoreBytes: 3 * size})
	r.reopen()
	for _, l := range allLimits {
		r.full(sized(here, 4), l.at(3))
	}
}

func testReopenWaits(r *rig) {
	r.keep(letter(here, 1))
	r.reopen()
	r.wait(here, 0)
	finish := r.background(func() error {
		_, err := await(r.Context(), r.Store, there, 0, 1)
		return err
	})
	settle()
	r.keep(letter(there, 1))
	finish()
}

func testReopenExpiry(r *rig) {
	r.keepSoon(letter(here, 1))
	lasting := letter(here, 2)
	r.keep(lasting)
	r.reopen()
	r.untilHolds(lasting)
	require.False(r, r.put(letter(here, 1)))
}

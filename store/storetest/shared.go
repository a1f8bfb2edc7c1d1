package storetest

import (
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// sharedTests have the same place open twice.
var sharedTests = append(forEachLimit(
	limitTest{"Puts at once fill it exactly", testSharedFill},
), []test{
	{"put here, receive there", testSharedMail},
	{"copies", testSharedCopies},
	{"copies at once", func(r *rig) { copiesAtOnce(r, r.Store, r.open()) }},
	{"Wait is woken", testSharedWait},
	{"no Put is missed", func(r *rig) { waitRace(r, r.Store, r.open()) }},
	{"a reader that follows sees everything once", testSharedFollow},
	{"a reader that acknowledges sees everything once", testSharedFollowAndAck},
	{"one after the other", func(r *rig) { oneAfterTheOther(r, r.Store, r.open()) }},
	{"acknowledged by both at once", testSharedAcksAtOnce},
	{"swept by both at once", testSharedExpiry},
	{"put, acknowledged and read by all at once", testSharedTraffic},
	{"damage", testSharedDamage},
	{"notes", testSharedNotes},
	{"one is closed", testSharedClose},
}...)

// sees waits until the mailbox has these mails for a second store, too.
func (r *rig) sees(second store.Store, destination spec.ServerName, want ...store.Mail) {
	r.Helper()
	r.eventually("both stores see the same", func() bool {
		entries, err := readAll(r.Context(), second, destination)
		require.NoError(r, err)
		return compare(want, entries) == nil
	})
}

func testSharedMail(r *rig) {
	second := r.open()
	mails := letters(here, 4)
	for i, mail := range mails {
		putter := []store.Store{r.Store, second}[i%2]
		_, err := putter.Put(r.Context(), mail, store.Limits{})
		require.NoError(r, err)
	}
	r.sees(r.Store, here, mails...)
	r.sees(second, here, mails...)

	removed, err := second.Ack(r.Context(), here, r.all(here)[1].ID)
	require.NoError(r, err)
	require.Equal(r, 2, removed)
	r.sees(r.Store, here, mails[2:]...)
	r.eventually("both stores use the same", func() bool {
		usage, err := second.Usage(r.Context(), here)
		require.NoError(r, err)
		return usage == r.usage(here) && usage == store.Usage{Entries: 2, Bytes: bytesOf(mails[2:]...)}
	})
	page, err := second.Destinations(r.Context(), "", 10)
	require.NoError(r, err)
	require.Equal(r, []spec.ServerName{here}, page)
}

func testSharedCopies(r *rig) {
	second := r.open()
	mail := letter(here, 1)
	r.keep(mail)
	isCopy := func() {
		for _, s := range []store.Store{second, r.Store} {
			stored, err := s.Put(r.Context(), mail, store.Limits{})
			require.NoError(r, err)
			require.False(r, stored)
		}
	}
	isCopy()
	require.Equal(r, 1, r.ack(here, r.holds(here, mail)[0].ID))
	isCopy()
	r.empty(here)
}

func testSharedWait(r *rig) {
	second := r.open()
	for i := range 3 {
		after := int64(0)
		if entries := r.all(here); len(entries) > 0 {
			after = entries[len(entries)-1].ID
		}
		finish := r.background(func() error {
			entries, err := await(r.Context(), second, here, after, 1)
			if err != nil {
				return err
			}
			return compare([]store.Mail{letter(here, i)}, entries)
		})
		settle()
		r.keep(letter(here, i))
		finish()
	}
}

func testSharedFollow(r *rig) {
	second := r.open()
	follow(r, false, r.Store, r.Store, second)
}

func testSharedFollowAndAck(r *rig) {
	second := r.open()
	follow(r, true, r.Store, r.Store, second)
}

// The end of one process is not the end of the other.
func testSharedClose(r *rig) {
	second := r.open()
	mails := letters(here, 2)
	r.keep(mails[0])
	require.NoError(r, second.Close())
	_, err := second.Next(r.Context(), here, 0, 1, plenty)
	require.ErrorIs(r, err, store.ErrClosed)
	r.keep(mails[1])
	r.holds(here, mails...)
	r.wait(here, 0)
}

package storetest

import (
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var damageTests = []test{
	{"the first entry", func(r *rig) { testDamage(r, 0) }},
	{"one in the middle", func(r *rig) { testDamage(r, 2) }},
	{"the last entry", func(r *rig) { testDamage(r, 4) }},
	{"two in a row", func(r *rig) { testDamage(r, 1, 2) }},
	{"behind the only one", testDamageOnly},
	{"found by Next of one", testDamageFoundByOne},
	{"Ack beyond it", testDamageAck},
	{"Wait doesn't spin on it", testDamageWait},
	{"other mailboxes", testDamageElsewhere},
	{"each kind", testDamageKinds},
}

// damage makes entries unreadable while the store is closed.
func (r *rig) damage(destination spec.ServerName, ids ...int64) {
	r.Helper()
	require.NoError(r, r.Close())
	for _, id := range ids {
		r.place.Damage[r.kind](r.T, destination, id)
	}
	r.Store = r.open()
}

// damaged puts five letters, damages some and returns the others.
func (r *rig) damaged(which ...int) (kept []store.Mail, entries []store.Entry) {
	r.Helper()
	mails := letters(here, 5)
	r.keep(mails...)
	all := ids(r.holds(here, mails...))
	var bad []int64
	for i, mail := range mails {
		if slices.Contains(which, i) {
			bad = append(bad, all[i])
		} else {
			kept = append(kept, mail)
		}
	}
	r.damage(here, bad...)
	return kept, r.holds(here, kept...)
}

// setAside requires Usage to say this of here once Next has come across the
// damaged entries.
func (r *rig) setAside(n int, kept ...store.Mail) {
	r.Helper()
	want := store.Usage{Entries: int64(len(kept)), Bytes: bytesOf(kept...), SetAside: int64(n)}
	require.Equal(r, want, r.usage(here))
	require.Equal(r, want, r.usage(""))
}

func testDamage(r *rig, which ...int) {
	kept, entries := r.damaged(which...)
	for range 2 {
		r.setAside(len(which), kept...)
		require.Equal(r, ids(entries), ids(r.holds(here, kept...)))
		require.Equal(r, ids(entries[:2]), r.nextIDs(0, 2, plenty))
		for i := range entries[1:] {
			require.Equal(r, entries[i+1].ID, r.nextIDs(entries[i].ID, 1, plenty)[0])
		}
		r.reopen()
	}
	// Mail still comes and goes.
	r.keep(letter(here, 10))
	all := r.holds(here, append(kept, letter(here, 10))...)
	for _, entry := range all {
		require.Equal(r, entry.ID, r.nextIDs(0, 1, plenty)[0])
		require.Positive(r, r.ack(here, entry.ID))
	}
	r.empty(here)
}

func testDamageKinds(r *rig) {
	for kind := range r.place.Damage {
		r.fresh(kind, func(r *rig) {
			r.kind = kind
			testDamage(r, 0, 2)
		})
	}
}

func testDamageOnly(r *rig) {
	r.keep(letter(here, 1))
	r.damage(here, r.all(here)[0].ID)
	r.empty(here)
	r.setAside(1)
	r.reopen()
	r.empty(here)
	r.setAside(1)
	r.keep(letter(here, 2))
	r.holds(here, letter(here, 2))
	r.wait(here, 0)
	r.ack(here, r.all(here)[0].ID)
	r.empty(here)
}

// A receiver that asks for one entry at a time must get past a damaged one,
// though the page that it asked for has nothing else in it.
func testDamageFoundByOne(r *rig) {
	mails := letters(here, 6)
	r.keep(mails...)
	all := ids(r.holds(here, mails...))
	r.damage(here, all[0], all[1], all[2], all[4])
	require.Equal(r, all[3:4], r.nextIDs(0, 1, 0))
	require.Equal(r, all[5:], r.nextIDs(all[3], 1, 0))
	r.setAside(4, mails[3], mails[5])
}

func testDamageAck(r *rig) {
	kept, entries := r.damaged(1)
	// There are three IDs up to this one; whether the damaged one counts is up
	// to the store.
	require.Contains(r, []int{2, 3}, r.ack(here, entries[1].ID))
	r.holds(here, kept[2:]...)
	require.Contains(r, []int{2, 3}, r.ack(here, entries[3].ID))
	r.empty(here)
	usage := r.usage(here)
	require.Zero(r, usage.Entries)
	require.Zero(r, usage.Bytes)
	r.reopen()
	r.empty(here)
}

func testDamageWait(r *rig) {
	r.keep(letter(here, 1))
	r.damage(here, r.all(here)[0].ID)
	r.empty(here)
	early := r.earlyReturns(here, 0, func() { time.Sleep(100 * time.Millisecond) })
	require.LessOrEqual(r, early, fewEarly, "Wait returned nil though there is only mail that was set aside")
	finish := r.background(func() error {
		entries, err := await(r.Context(), r.Store, here, 0, 1)
		if err != nil {
			return err
		}
		return compare([]store.Mail{letter(here, 2)}, entries)
	})
	settle()
	r.keep(letter(here, 2))
	finish()
}

func testDamageElsewhere(r *rig) {
	mails := letters(there, 3)
	r.keep(mails...)
	r.damaged(2)
	r.holds(there, mails...)
	require.Equal(r, store.Usage{Entries: 3, Bytes: bytesOf(mails...)}, r.usage(there))
	require.EqualValues(r, 1, r.usage("").SetAside)
	require.Subset(r, r.destinations(10), []spec.ServerName{here, there})
}

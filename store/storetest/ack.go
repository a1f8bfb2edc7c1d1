package storetest

import (
	"math"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var ackTests = []test{
	{"removes up to the ID", testAckUpTo},
	{"another destination's ID", testAckForeign},
	{"a made-up ID", testAckMadeUp},
	{"an ID that was acknowledged", testAckAgain},
	{"IDs never come back", testIDsNeverComeBack},
	{"IDs of a place that was lost", testIDsOfLostPlace},
}

func testAckUpTo(r *rig) {
	mails, entries := r.interleave(6)
	for _, step := range []struct{ last, removed int }{{0, 1}, {3, 3}, {5, 2}} {
		require.Equal(r, step.removed, r.ack(here, entries[step.last].ID))
		r.holds(here, mails[step.last+1:]...)
		require.Len(r, r.all(there), 12)
	}
}

// ignores requires that Ack of these IDs changes nothing in a mailbox, unless
// they happen to be IDs of its own.
func (r *rig) ignores(destination spec.ServerName, others ...int64) {
	r.Helper()
	before, usage := ids(r.all(destination)), r.usage("")
	for _, id := range others {
		if slices.Contains(before, id) {
			continue
		}
		require.Zero(r, r.ack(destination, id), "removed by an Ack of %d where there is only %v", id, before)
		require.Equal(r, before, ids(r.all(destination)), "after an Ack of %d", id)
	}
	require.Equal(r, usage, r.usage(""))
}

// A store may count IDs for each destination alone. There is twice as much
// there as here, so that some IDs of there are not used here in any case.
func testAckForeign(r *rig) {
	r.interleave(5)
	r.ignores(here, ids(r.all(there))...)
	r.ignores(there, ids(r.all(here))...)
	r.ignores("nobody.example", ids(r.all(here))...)
	require.Len(r, r.all(here), 5)
	require.Len(r, r.all(there), 10)
}

func testAckMadeUp(r *rig) {
	_, entries := r.interleave(5)
	madeUp := []int64{0, -1, math.MinInt64, math.MinInt32, math.MaxInt32, store.MaxID, store.MaxID + 1, math.MaxInt64}
	for _, entry := range entries {
		madeUp = append(madeUp, -entry.ID, entry.ID-1, entry.ID+1, entry.ID+1000, entry.ID+1<<32)
	}
	r.ignores(here, madeUp...)

	// An ID from the future isn't kept for when it comes.
	mail := letter(here, 100)
	r.keep(mail)
	require.Len(r, r.all(here), 6)
}

func testAckAgain(r *rig) {
	mails, entries := r.interleave(4)
	require.Equal(r, 2, r.ack(here, entries[1].ID))
	r.ignores(here, entries[0].ID, entries[1].ID)
	r.holds(here, mails[2:]...)
	require.Equal(r, 2, r.ack(here, entries[3].ID))
	r.ignores(here, ids(entries)...)
	r.keep(letter(here, 100))
	r.ignores(here, ids(entries)...)
	r.holds(here, letter(here, 100))
}

func testIDsNeverComeBack(r *rig) {
	r.keepsGrowing(func() {})
}

// When a place is lost and made anew, receivers still acknowledge mail that they had
// from the first. That must not take away anything in the second.
func testIDsOfLostPlace(r *rig) {
	r.keep(letters(here, 3)...)
	lost := ids(r.all(here))
	time.Sleep(10 * time.Millisecond) // see store.FirstID
	r.fresh("made anew", func(r *rig) {
		r.keep(letters(here, 3)...)
		require.Greater(r, r.all(here)[0].ID, lost[2])
		r.ignores(here, lost...)
	})
}

// keepsGrowing puts and acknowledges, and requires that each ID is larger than
// all before it, though the mailbox is empty or has lost its largest ones.
func (r *rig) keepsGrowing(between func()) {
	r.Helper()
	last := int64(0)
	for round := range 4 {
		mails := []store.Mail{letter(here, 2*round), letter(here, 2*round+1)}
		r.keep(mails...)
		between()
		entries := r.holds(here, mails...)
		require.Greater(r, entries[0].ID, last)
		last = entries[1].ID
		r.ack(here, last)
		between()
		r.empty(here)
	}
}

package storetest

import (
	"maps"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// setBackTests put an earlier copy of the place in its stead, as a backup does.
// The random steps in model do it, too.
var setBackTests = []test{
	{"an acknowledgement from before", testOldAck},
	{"new mail for a new mailbox", testOldAckOfNewMailbox},
	{"copies", testSetBackCopies},
}

// copyPlace copies the place as it is now.
func (r *rig) copyPlace() (setBack func()) {
	r.Helper()
	require.NoError(r, r.Close())
	put := r.place.Copy(r.T)
	r.Store = r.open()
	return func() {
		r.Helper()
		require.NoError(r, r.Close())
		put(r.T)
		r.Store = r.open()
	}
}

// A receiver got mail that the store then forgot. Its acknowledgement must not
// take anything away that came later.
func testOldAck(r *rig) {
	for _, to := range []spec.ServerName{here, ours} {
		if !r.place.allows(to) {
			continue
		}
		r.keep(letter(to, 1))
		setBack := r.copyPlace()
		r.keep(letter(to, 2), letter(to, 3))
		fetched := r.holds(to, letter(to, 1), letter(to, 2), letter(to, 3))

		setBack()
		r.keep(letter(to, 4), letter(to, 5))
		entries := r.holds(to, letter(to, 1), letter(to, 4), letter(to, 5))
		require.Greater(r, entries[1].ID, fetched[2].ID)
		r.ignores(to, fetched[1].ID, fetched[2].ID)
		require.Equal(r, 1, r.ack(to, fetched[0].ID), "which was there all the time")
		r.holds(to, letter(to, 4), letter(to, 5))
	}
}

// The mailbox itself is newer than the copy.
func testOldAckOfNewMailbox(r *rig) {
	setBack := r.copyPlace()
	for range 3 {
		r.keep(letter(here, 1), letter(here, 2))
		fetched := r.all(here)
		setBack()
		r.keep(letter(here, 3), letter(here, 4), letter(here, 5))
		for _, entry := range fetched {
			require.Zero(r, r.ack(here, entry.ID))
		}
		r.holds(here, letter(here, 3), letter(here, 4), letter(here, 5))
		setBack()
	}
}

func testSetBackCopies(r *rig) {
	mails := letters(here, 4)
	r.keep(mails[:2]...)
	r.ack(here, r.holds(here, mails[:2]...)[0].ID)
	setBack := r.copyPlace()
	r.keep(mails[2:]...)
	setBack()
	require.False(r, r.put(mails[0]))
	require.False(r, r.put(mails[1]))
	r.keep(mails[2:]...)
	r.holds(here, mails[1:]...)
	require.Equal(r, store.Usage{Entries: 3, Bytes: bytesOf(mails[1:]...)}, r.usage(here))
}

// saved is the state of the model when the place was copied.
type saved struct {
	boxes  map[spec.ServerName][]store.Entry
	stored []store.Mail
	put    func() // the copy in the place's stead
}

func (m *model) copyIt() {
	if m.place.setsBack() && m.few == (few{}) { // the copies that it remembers then aren't in the model
		m.note("copy")
		m.saved = &saved{boxes: maps.Clone(m.boxes), stored: slices.Clone(m.stored), put: m.copyPlace()}
	}
}

// setItBack makes the store forget everything since it was copied. Receivers
// have not forgotten the IDs that they got meanwhile, and senders send again.
func (m *model) setItBack() {
	if m.saved == nil {
		return
	}
	m.note("set back")
	m.saved.put()
	for _, box := range m.boxes {
		m.gone = append(m.gone, ids(box)...)
	}
	m.refused = append(m.refused, m.stored[len(m.saved.stored):]...)
	m.boxes, m.stored = maps.Clone(m.saved.boxes), slices.Clone(m.saved.stored)
}

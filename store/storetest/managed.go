package storetest

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// Stores that aren't store.Managed pass these by doing nothing.
var managedTests = []test{
	{"list the entries that Next returns", testList},
	{"list lifetimes", testListLifetimes},
	{"senders of a mailbox", testSendersOfOne},
	{"senders of all mailboxes", testSendersOfAll},
	{"recipients in pages", testRecipients},
	{"remove from anywhere", testRemove},
	{"remove nothing of others", testRemoveForeign},
	{"Ack of a removed entry", testAckRemoved},
	{"removed mail is a copy", testRemovedIsCopy},
	{"removed mail makes room", testRemoveMakesRoom},
	{"many at once", testRemoveMany},
	{"removing while others write", testRemoveAtOnce},
	{"removed for good", testRemoveReopen},
	{"closed", testManagedClosed},
}

var managedPrivateTests = []test{{"halves apart", testManagedHalves}}

func (r *rig) managed() store.Managed {
	r.Helper()
	managed, ok := r.Store.(store.Managed)
	if !ok {
		r.Skip("the store isn't a store.Managed")
	}
	return managed
}

// listed returns the list of a mailbox, read in pages of a size.
func (r *rig) listed(destination spec.ServerName, limit int) []store.Listed {
	r.Helper()
	var all []store.Listed
	for after := int64(0); ; after = all[len(all)-1].ID {
		page, err := r.managed().List(r.Context(), destination, after, limit)
		require.NoError(r, err)
		require.NotNil(r, page)
		require.LessOrEqual(r, len(page), max(limit, 1))
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
	}
}

// lists requires that a mailbox is listed as these entries.
func (r *rig) lists(destination spec.ServerName, entries []store.Entry, limit int) {
	r.Helper()
	var want []store.Listed
	for _, e := range entries {
		want = append(want, store.Listed{
			ID: e.ID, Origin: e.Origin, TransactionID: e.TransactionID, Digest: e.Digest, Size: e.Size(), Proven: len(e.Proof) > 0,
		})
	}
	got := r.listed(destination, limit)
	for i := range got {
		got[i].Lifetime = 0
	}
	require.Equal(r, want, got)
}

func (r *rig) senders(destination spec.ServerName, limit int) []store.Sender {
	r.Helper()
	senders, err := r.managed().Senders(r.Context(), destination, limit)
	require.NoError(r, err)
	require.NotNil(r, senders)
	return senders
}

// recipients reads all of a half, of which after is the start, in pages of a size.
func (r *rig) recipients(origin, after spec.ServerName, limit int) []spec.ServerName {
	r.Helper()
	all := []spec.ServerName{}
	for {
		page, err := r.managed().Recipients(r.Context(), origin, after, limit)
		require.NoError(r, err)
		require.LessOrEqual(r, len(page), max(limit, 1))
		if len(page) == 0 {
			return all
		}
		all, after = append(all, page...), page[len(page)-1]
	}
}

func (r *rig) remove(destination spec.ServerName, ids ...int64) int {
	r.Helper()
	removed, err := r.managed().Remove(r.Context(), destination, ids)
	require.NoError(r, err)
	return removed
}

func testList(r *rig) {
	require.Empty(r, r.listed(here, 3))
	mails := letters(here, 7)
	mails[1].Proof, mails[2].Body, mails[3].Origin, mails[4].TransactionID = nil, nil, "other.example", "\x00\xff"
	r.keep(mails...)
	r.keep(letter(there, 1))
	entries := r.holds(here, mails...)
	for _, limit := range []int{-1, 1, 3, 7, 100} {
		r.lists(here, entries, limit)
	}
	page, err := r.managed().List(r.Context(), here, entries[4].ID, 100)
	require.NoError(r, err)
	require.Len(r, page, 2, "only those after the ID")
	r.ack(here, entries[2].ID)
	r.lists(here, entries[3:], 2)
}

func testListLifetimes(r *rig) {
	r.keep(letter(here, 1), expiring(letter(here, 2), time.Hour))
	r.keepSoon(letter(here, 3))
	r.eventually("expired mail isn't listed", func() bool { return len(r.listed(here, 10)) == 2 })
	listed := r.listed(here, 10)
	require.Zero(r, listed[0].Lifetime)
	require.True(r, isLeftOf(time.Hour, listed[1].Lifetime), "%v", listed[1].Lifetime)
}

// from returns mails of a size for a destination that come from an origin.
func from(origin, to spec.ServerName, first, n int) []store.Mail {
	mails := make([]store.Mail, n)
	for i := range mails {
		mails[i] = sized(to, first+i)
		mails[i].Origin = origin
	}
	return mails
}

// sends is the right answer of Senders for an origin with entries of that size.
func sends(origin spec.ServerName, mailboxes, entries int64) store.Sender {
	return store.Sender{Origin: origin, Mailboxes: mailboxes, Entries: entries, Bytes: entries * size}
}

func testSendersOfOne(r *rig) {
	require.Empty(r, r.senders(here, 3))
	r.keep(from("a.example", here, 1, 2)...)
	r.keep(from("b.example", here, 10, 3)...)
	r.keep(from("0.example", here, 20, 2)...)
	r.keep(from("c.example", there, 1, 9)...)
	want := []store.Sender{sends("b.example", 1, 3), sends("0.example", 1, 2), sends("a.example", 1, 2)}
	require.Equal(r, want, r.senders(here, 10))
	require.Equal(r, want[:2], r.senders(here, 2))
	require.Equal(r, want[:1], r.senders(here, -1))
	r.ack(here, r.all(here)[0].ID)
	require.Equal(r, store.Sender{Origin: "a.example", Mailboxes: 1, Entries: 1, Bytes: size}, r.senders(here, 10)[2])
	r.ack(here, r.all(here)[0].ID)
	require.Len(r, r.senders(here, 10), 2)
}

func testSendersOfAll(r *rig) {
	require.Empty(r, r.senders("", 3))
	r.keep(from("a.example", here, 1, 2)...)
	r.keep(from("a.example", there, 1, 3)...)
	r.keep(from("b.example", there, 10, 4)...)
	want := []store.Sender{sends("a.example", 2, 5), sends("b.example", 1, 4)}
	require.Equal(r, want, r.senders("", 10))
	require.Equal(r, want[:1], r.senders("", 1))
	r.ack(there, r.all(there)[2].ID)
	require.Equal(r, []store.Sender{want[1], sends("a.example", 1, 2)}, r.senders("", 10))
}

func testRecipients(r *rig) {
	require.Empty(r, r.recipients(origin, "", 2))
	names := []spec.ServerName{"A", "a", "a\x00", "b", "\x7f", "\xff"}
	for i, name := range names {
		r.keep(letter(name, i))
		r.keep(from("b.example", name+"b", i, 1)...)
	}
	want := slices.Sorted(slices.Values(names))
	for _, limit := range []int{-1, 1, 4, 100} {
		require.Equal(r, want, r.recipients(origin, "", limit))
	}
	require.Equal(r, want[3:], r.recipients(origin, want[2], 2))
	require.Empty(r, r.recipients("nobody.example", "", 2))
	r.remove("b", r.all("b")[0].ID)
	require.NotContains(r, r.recipients(origin, "", 10), spec.ServerName("b"))
}

func testRemove(r *rig) {
	mails := letters(here, 6)
	mails[4].Origin = "other.example"
	r.keep(mails...)
	r.keep(letter(there, 1))
	e := r.holds(here, mails...)
	require.Equal(r, 2, r.remove(here, e[4].ID, e[1].ID))
	left := []store.Mail{mails[0], mails[2], mails[3], mails[5]}
	r.holds(here, left...)
	r.uses(left, letters(there, 1))
	require.Equal(r, 2, r.remove(here, e[0].ID, e[5].ID, e[5].ID))
	r.holds(here, mails[2:4]...)
	require.Len(r, r.senders(here, 10), 1)
	r.wait(here, e[2].ID)
	require.Equal(r, 2, r.ack(here, e[3].ID))
	r.empty(here)
	require.Equal(r, 1, r.remove(there, r.all(there)[0].ID))
	r.uses(nil, nil)
	require.Empty(r, r.destinations(10))
}

func testRemoveForeign(r *rig) {
	_, entries := r.interleave(4)
	own := ids(entries)
	others := []int64{0, -1, math.MinInt64, math.MaxInt64, store.MaxID}
	for _, id := range ids(r.all(there)) {
		if !slices.Contains(own, id) {
			others = append(others, id)
		}
	}
	require.Zero(r, r.remove(here, others...))
	require.Zero(r, r.remove("nobody.example", own...))
	require.Zero(r, r.remove(here))
	require.Len(r, r.all(here), 4)
	require.Len(r, r.all(there), 8)
	require.Equal(r, 1, r.remove(here, append(others, own[1])...))
	require.Zero(r, r.remove(here, own[1]), "it was removed")
	r.ack(here, own[2])
	require.Zero(r, r.remove(here, own[:3]...), "they were acknowledged")
	require.Len(r, r.all(here), 1)
}

// A receiver that has seen an entry has seen those before it.
func testAckRemoved(r *rig) {
	mails := letters(here, 4)
	r.keep(mails...)
	e := r.holds(here, mails...)
	r.remove(here, e[2].ID)
	if r.ack(here, e[2].ID) == 0 {
		r.holds(here, mails[0], mails[1], mails[3])
		require.Equal(r, 2, r.ack(here, e[1].ID), "which a relay acknowledges then")
	}
	r.holds(here, mails[3])
	require.Len(r, r.all(here), int(r.usage(here).Entries))
}

func testRemovedIsCopy(r *rig) {
	mails := letters(here, 3)
	r.keep(mails...)
	r.remove(here, r.all(here)[1].ID)
	require.False(r, r.put(mails[1]), "it is remembered")
	r.holds(here, mails[0], mails[2])
	r.keep(letter(here, 4))
}

func testRemoveMakesRoom(r *rig) {
	limits := store.Limits{Entries: 3, Bytes: 3 * size, OriginEntries: 2, OriginBytes: 2 * size, StoreEntries: 3, StoreBytes: 3 * size}
	a, b := from("a.example", here, 1, 3), from("b.example", here, 10, 3)
	r.keep(a[0], a[1], b[0])
	r.full(a[2], limits)
	r.full(b[1], limits)
	r.remove(here, r.all(here)[1].ID)
	r.fits(a[2], limits)
	r.full(b[1], limits)
	r.remove(here, r.all(here)[1].ID) // of b
	r.fits(b[1], limits)
	r.holds(here, a[0], a[2], b[1])
}

// A store may take several steps for them.
func testRemoveMany(r *rig) {
	n := fewer(1600)
	mails := letters(here, n)
	r.together(8, func(i int) error {
		for _, mail := range mails[i*n/8 : (i+1)*n/8] {
			if _, err := r.Put(r.Context(), mail, store.Limits{}); err != nil {
				return err
			}
		}
		return nil
	})
	var gone []int64
	var kept []store.Mail
	for i, e := range r.all(here) {
		if i%8 == 0 {
			e.Lifetime = 0
			kept = append(kept, e.Mail)
		} else {
			gone = append(gone, e.ID)
		}
	}
	require.Equal(r, len(gone), r.remove(here, gone...))
	r.holds(here, kept...)
	r.uses(kept, nil)
}

// Whatever is put and acknowledged meanwhile, in the end nothing is left and each
// mail was taken away once.
func testRemoveAtOnce(r *rig) {
	managed := r.managed()
	n := fewer(80)
	removed := make([]int, 4)
	r.together(4, func(i int) (err error) {
		for k := range n {
			mail := letter(here, i*n+k)
			if _, err := r.Put(r.Context(), mail, store.Limits{}); err != nil {
				return err
			}
			if removed[i], err = takeSome(r.Context(), r.Store, managed, removed[i], i%2 == 0); err != nil {
				return err
			}
		}
		return nil
	})
	sum := 0
	for _, one := range removed {
		sum += one
	}
	left := r.all(here)
	require.Equal(r, 4*n, sum+len(left))
	require.Equal(r, int64(len(left)), r.usage(here).Entries)
	if len(left) > 0 {
		require.Equal(r, len(left), r.remove(here, ids(left)...))
	}
	r.uses(nil, nil)
	require.Empty(r, r.senders("", 1))
}

// takeSome removes or acknowledges some entries, and adds their number.
func takeSome(ctx context.Context, s store.Store, managed store.Managed, sum int, acks bool) (int, error) {
	page, err := managed.List(ctx, here, 0, 3)
	if err != nil || len(page) < 2 {
		return sum, err
	}
	var n int
	if acks {
		n, err = s.Ack(ctx, here, page[0].ID)
	} else {
		n, err = managed.Remove(ctx, here, []int64{page[1].ID, page[0].ID})
	}
	return sum + n, err
}

func testRemoveReopen(r *rig) {
	mails := letters(here, 4)
	r.keep(mails...)
	e := r.holds(here, mails...)
	require.Equal(r, 2, r.remove(here, e[3].ID, e[0].ID))
	if r.place.Volatile {
		return
	}
	if r.place.Crash != nil {
		r.crash()
	} else {
		r.reopen()
	}
	r.holds(here, mails[1:3]...)
	r.uses(mails[1:3], nil)
	require.False(r, r.put(mails[3]), "it is remembered")
	r.keep(letter(here, 5))
	require.Greater(r, r.all(here)[2].ID, e[3].ID, "an ID was given again")
}

func testManagedClosed(r *rig) {
	m := r.managed()
	canceled, cancel := context.WithCancel(r.Context())
	cancel()
	_, err := m.Remove(canceled, here, []int64{1})
	require.ErrorIs(r, err, context.Canceled)
	require.NoError(r, r.Close())
	_, err = m.List(r.Context(), here, 0, 1)
	require.ErrorIs(r, err, store.ErrClosed)
	_, err = m.Senders(r.Context(), "", 1)
	require.ErrorIs(r, err, store.ErrClosed)
	_, err = m.Recipients(r.Context(), origin, "", 1)
	require.ErrorIs(r, err, store.ErrClosed)
	_, err = m.Remove(r.Context(), here, []int64{1})
	require.ErrorIs(r, err, store.ErrClosed)
}

func testManagedHalves(r *rig) {
	r.keep(from("a.example", here, 1, 1)...)
	r.keep(from("a.example", ours, 1, 2)...)
	r.keep(from("b.example", theirs, 1, 1)...)
	require.Equal(r, []store.Sender{sends("a.example", 1, 1)}, r.senders("", 10))
	require.Equal(r, []store.Sender{sends("a.example", 1, 2), sends("b.example", 1, 1)}, r.senders(store.PrivateHalf, 10))
	require.Equal(r, []spec.ServerName{here}, r.recipients("a.example", "", 10))
	require.Equal(r, []spec.ServerName{ours}, r.recipients("a.example", store.PrivateHalf, 10))
	r.lists(ours, r.all(ours), 1)
	require.Equal(r, 1, r.remove(ours, r.all(ours)[0].ID))
	require.Len(r, r.all(ours), 1)
	require.Len(r, r.all(here), 1)
}

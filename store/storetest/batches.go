package storetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// Stores that aren't store.Batches are skipped here.
var batchTests = []test{
	{"in order, and whole", testPutAll},
	{"copies", testPutAllCopies},
	{"nothing", testPutAllNothing},
	{"wakes receivers that wait", testPutAllWakes},
	{"beside others", testPutAllAtOnce},
	{"beside acknowledgements", testPutAllAcks},
	{"large", testPutAllLarge},
	{"reopen", testPutAllReopen},
	{"closed", testPutAllClosed},
}

func (r *rig) batches() store.Batches {
	batches, ok := r.Store.(store.Batches)
	if !ok {
		r.Skip("the store has no batches")
	}
	return batches
}

func (r *rig) putAll(mails ...store.Mail) {
	r.Helper()
	require.NoError(r, r.batches().PutAll(r.Context(), mails))
}

func testPutAll(r *rig) {
	a, b := letters(here, 60), letters(there, 3)
	a[1].Body, a[2].Proof, a[3].Origin = nil, nil, "another.example"
	a[59] = expiring(a[59], time.Hour)
	r.putAll(a...)
	r.putAll(b...)
	r.holds(here, a...)
	r.uses(a, b)
	r.ack(here, r.holds(here, a...)[9].ID)
	r.holds(here, a[10:]...)
	r.uses(a[10:], b)
}

func testPutAllCopies(r *rig) {
	mails := letters(here, 10)
	r.keep(mails[3])
	r.putAll(mails[0], mails[3], mails[0], mails[1])
	r.holds(here, mails[3], mails[0], mails[1])
	r.ack(here, r.all(here)[1].ID)
	r.putAll(mails...)
	want := slices.Concat(mails[1:3], mails[4:])
	r.holds(here, want...)
	r.uses(want, nil)
	for _, mail := range mails {
		require.False(r, r.put(mail))
	}
}

func testPutAllNothing(r *rig) {
	r.putAll()
	require.Zero(r, r.usage(""))
}

func testPutAllWakes(r *rig) {
	r.batches()
	finish := r.background(func() error {
		_, err := await(r.Context(), r.Store, here, 0, 1)
		return err
	})
	settle()
	r.putAll(letters(here, 2)...)
	finish()
}

// Each batch stays together in its order, also while others put.
func testPutAllAtOnce(r *rig) {
	batches := r.batches()
	r.together(8, func(i int) error {
		to := []spec.ServerName{here, there}[i%2]
		for n := range 5 {
			first := 1000*i + 10*n
			var mails []store.Mail
			for k := range 10 {
				mails = append(mails, letter(to, first+k))
			}
			_, err := r.Put(r.Context(), letter(to, first+9), store.Limits{}) // the last of them comes first
			if err := errors.Join(err, batches.PutAll(r.Context(), mails)); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range 8 {
		to := []spec.ServerName{here, there}[i%2]
		place := make(map[string]int)
		for at, entry := range r.all(to) {
			place[string(entry.TransactionID)] = at
		}
		require.Len(r, place, 200)
		at := func(n int) int { return place[string(letter(to, 1000*i+n).TransactionID)] }
		for n := range 50 {
			if n%10 < 8 {
				require.Less(r, at(n), at(n+1), "in the order of the batch")
			}
		}
	}
}

// Mail that two put, in batches that overlap, arrives once and in order, though it is
// acknowledged between two batches, or between two Puts that a batch is made of.
func testPutAllAcks(r *rig) {
	batches, mails := r.batches(), letters(here, fewer(200))
	finish := r.launch(2, func(int) error {
		for first := 0; first < len(mails); first += 10 {
			if err := batches.PutAll(r.Context(), mails[first:min(first+15, len(mails))]); err != nil {
				return err
			}
		}
		return nil
	})
	var got []store.Entry
	for len(got) < len(mails) {
		page, err := await(r.Context(), r.Store, here, 0, 7)
		require.NoError(r, err)
		got = append(got, page...)
		require.Equal(r, len(page), r.ack(here, page[len(page)-1].ID))
	}
	finish()
	require.NoError(r, compare(mails, got))
	r.empty(here)
	r.uses(nil, nil)
}

// A batch may be larger than those that stores commit together otherwise.
func testPutAllLarge(r *rig) {
	mails := letters(here, 4)
	for i := range mails[:3] {
		mails[i].Body = bytes.Repeat([]byte{byte(i)}, 3<<20)
	}
	r.putAll(mails...)
	r.holds(here, mails...)
}

func testPutAllReopen(r *rig) {
	mails := letters(here, 5)
	r.putAll(mails...)
	if !r.place.Volatile {
		r.reopen()
		r.holds(here, mails...)
	}
}

func testPutAllClosed(r *rig) {
	batches := r.batches()
	canceled, cancel := context.WithCancel(r.Context())
	cancel()
	require.ErrorIs(r, batches.PutAll(canceled, letters(here, 2)), context.Canceled)
	r.empty(here)
	require.NoError(r, r.Close())
	require.ErrorIs(r, batches.PutAll(r.Context(), letters(here, 2)), store.ErrClosed)
	require.ErrorIs(r, batches.PutAll(r.Context(), nil), store.ErrClosed)
}

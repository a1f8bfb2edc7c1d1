package storetest

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// bothUse waits until both stores say this of the whole store.
func (r *rig) bothUse(second store.Store, want store.Usage) {
	r.Helper()
	r.eventually("both stores use the same", func() bool {
		usage, err := second.Usage(r.Context(), "")
		require.NoError(r, err)
		return usage == want && r.usage("") == want
	})
}

// Puts through two stores keep to a limit exactly, unless it is that of the whole
// store: then mail that the other stores put at the same moment may be too much.
func testSharedFill(r *rig, l limit) {
	second := r.open()
	if !l.ofStore {
		fillAtOnce(r, l, r.Store, second)
		return
	}
	const room = 24
	stored := r.putTwice(l, room, []spec.ServerName{here, there}, r.Store, second)
	require.GreaterOrEqual(r, stored, int64(room), "how many of the Puts said that they had stored it")
	r.bothUse(second, store.Usage{Entries: stored, Bytes: stored * size})
	for _, s := range []store.Store{r.Store, second} {
		_, err := s.Put(r.Context(), sized(here, 9999), l.at(room))
		require.ErrorIs(r, err, store.ErrFull)
	}
}

// Deployed receivers run two syncs at once, and may reach two processes. Each
// entry is removed by one of them.
func testSharedAcksAtOnce(r *rig) {
	stores := []store.Store{r.Store, r.open()}
	const rounds = 10
	for n := range rounds {
		mails := []store.Mail{letter(here, 3*n), letter(here, 3*n+1), letter(here, 3*n+2)}
		r.keep(mails...)
		entries := r.holds(here, mails...)
		var removed atomic.Int64
		r.together(4, func(i int) error {
			count, err := stores[i%2].Ack(r.Context(), here, entries[1+i/2].ID)
			removed.Add(int64(count))
			return err
		})
		require.EqualValues(r, 3, removed.Load(), "as the Acks say, together")
		r.empty(here)
		r.bothUse(stores[1], store.Usage{})
	}
}

// Expired mail is counted off once, though both stores sweep.
func testSharedExpiry(r *rig) {
	second := r.open()
	lasting := letters(here, 2)
	r.keep(lasting...)
	r.together(2, func(i int) error {
		for n := range 50 {
			mail := expiring(letter([]spec.ServerName{here, there}[n%2], 100*(i+1)+n), time.Duration(1+n)*time.Millisecond)
			if _, err := []store.Store{r.Store, second}[i].Put(r.Context(), mail, store.Limits{}); err != nil {
				return err
			}
		}
		return nil
	})
	want := store.Usage{Entries: 2, Bytes: bytesOf(lasting...)}
	r.eventually("expired mail isn't counted", func() bool { // a store may not have heard yet of the last Put of the other one
		return r.usage("") == want && r.usage(there) == store.Usage{}
	})
	require.Equal(r, want, r.usage(here))
	require.Zero(r, r.usage(there))
	r.holds(here, lasting...)
}

// Through both stores at once mail is put, in an order of destinations that
// differs, and acknowledged, while it is read: no one waits for another for
// ever, and in the end the counts are right.
func testSharedTraffic(r *rig) {
	stores := []store.Store{r.Store, r.open()}
	names := []spec.ServerName{"a.example", "b.example", "c.example"}
	const putters = 6
	each := fewer(40)
	followers := make([]*follower, len(names))
	for i := range followers {
		followers[i] = &follower{store: stores[i%2], destination: names[i], acks: true}
	}
	reading := r.launch(len(followers), func(i int) error {
		return followers[i].read(r.Context(), count(putters*each))
	})
	r.together(putters, func(i int) error {
		for n := range each {
			for j := range names {
				mail := letter(names[(i+j)%len(names)], 1000*i+n)
				limits := store.Limits{Entries: 1 << 30, OriginEntries: 1 << 30, StoreEntries: 1 << 30}
				if _, err := stores[(i+n)%2].Put(r.Context(), mail, limits); err != nil {
					return err
				}
			}
		}
		return nil
	})
	reading()
	for i, f := range followers {
		require.Len(r, f.seen, putters*each)
		require.Equal(r, putters*each, f.removed)
		r.empty(names[i])
	}
	r.bothUse(stores[1], store.Usage{})
}

// An entry that both stores come across is set aside once.
func testSharedDamage(r *rig) {
	if !r.place.damages() {
		r.Skip("not in this place")
	}
	mails := letters(here, 3)
	r.keep(mails...)
	r.damage(here, r.holds(here, mails...)[1].ID)
	stores := []store.Store{r.Store, r.open()}
	r.together(4, func(i int) error {
		entries, err := readAll(r.Context(), stores[i%2], here)
		if err != nil {
			return err
		}
		return compare([]store.Mail{mails[0], mails[2]}, entries)
	})
	r.eventually("it is counted once", func() bool {
		return r.usage(here) == store.Usage{Entries: 2, Bytes: bytesOf(mails[0], mails[2]), SetAside: 1}
	})
}

func testSharedNotes(r *rig) {
	r.notes() // skips the test if there are none
	stores := []store.Notes{r.notes(), r.open().(store.Notes)}
	r.together(8, func(i int) error {
		for n := range fewer(20) {
			changes := []store.Note{{Key: "x", Value: []byte{byte(i), byte(n)}}, {Key: "y", Value: []byte{byte(i), byte(n)}}}
			if i%2 == 0 {
				slices.Reverse(changes)
			}
			if err := stores[i/2%2].SetNotes(r.Context(), changes); err != nil {
				return err
			}
		}
		return nil
	})
	notes := r.noted("")
	require.Len(r, notes, 2)
	require.Equal(r, notes[0].Value, notes[1].Value, "changes are made together")
	r.eventually("both see the same", func() bool {
		others, err := stores[1].Notes(r.Context(), "", "", 10)
		require.NoError(r, err)
		return slices.EqualFunc(notes, others, func(a, b store.Note) bool { return a.Key == b.Key && slices.Equal(a.Value, b.Value) })
	})
}

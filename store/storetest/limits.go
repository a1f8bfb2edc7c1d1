package storetest

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var limitTests = append(forEachLimit(
	limitTest{"fits exactly", testExactFit},
	limitTest{"its unit", testUnit},
	limitTest{"too large for an empty mailbox", testTooLarge},
	limitTest{"room after Ack", testRoomAfterAck},
	limitTest{"others aren't affected", testOthersNotAffected},
	limitTest{"expired mail doesn't count", testExpiredDoesNotCount},
	limitTest{"copies fit", testCopiesFit},
	limitTest{"Puts at once fill it exactly", testFillAtOnce},
	limitTest{"less than one is none", testNoLimit},
),
	test{"a limit is that of its Put", testLimitOfPut},
	test{"together", testLimitsTogether},
)

// A limit is one of those in store.Limits.
type limit struct {
	name string

	// at sets it so that n sized letters from origin for here fit.
	at func(n int64) store.Limits

	// inBytes says that it counts bytes, not entries.
	inBytes bool

	// ofOrigin and ofStore say whose limit it is, if not the mailbox's.
	ofOrigin, ofStore bool
}

var allLimits = []limit{
	{name: "Entries", at: func(n int64) store.Limits { return store.Limits{Entries: n} }},
	{name: "Bytes", at: func(n int64) store.Limits { return store.Limits{Bytes: n * size} }, inBytes: true},
	{name: "OriginEntries", at: func(n int64) store.Limits { return store.Limits{OriginEntries: n} }, ofOrigin: true},
	{name: "OriginBytes", at: func(n int64) store.Limits { return store.Limits{OriginBytes: n * size} }, ofOrigin: true, inBytes: true},
	{name: "StoreEntries", at: func(n int64) store.Limits { return store.Limits{StoreEntries: n} }, ofStore: true},
	{name: "StoreBytes", at: func(n int64) store.Limits { return store.Limits{StoreBytes: n * size} }, ofStore: true, inBytes: true},
}

type limitTest struct {
	name string
	run  func(*rig, limit)
}

func forEachLimit(limitTests ...limitTest) []test {
	var tests []test
	for _, l := range allLimits {
		for _, t := range limitTests {
			tests = append(tests, test{l.name + ": " + t.name, func(r *rig) { t.run(r, l) }})
		}
	}
	return tests
}

func testNoLimit(r *rig, l limit) {
	for i, n := range []int64{0, -1, -1 << 40} {
		r.fits(sized(here, i), l.at(n))
	}
}

// fill puts three sized letters, which is all that fits into limits.at(3).
func (r *rig) fill(l limit) []store.Mail {
	r.Helper()
	var mails []store.Mail
	for i := range 3 {
		mails = append(mails, sized(here, i))
		r.fits(mails[i], l.at(3))
	}
	return mails
}

func testExactFit(r *rig, l limit) {
	mails := r.fill(l)
	for range 2 {
		r.full(sized(here, 4), l.at(3))
	}
	r.holds(here, mails...)
	require.Equal(r, store.Usage{Entries: 3, Bytes: 3 * size}, r.usage(here))
	require.Equal(r, store.Usage{Entries: 3, Bytes: 3 * size}, r.usage(""))

	// Refused mail is not remembered as something that was stored.
	r.fits(sized(here, 4), store.Limits{})
}

// Entries count as entries, however small or large, and bytes as bytes.
func testUnit(r *rig, l limit) {
	r.fits(sized(here, 1), l.at(3))
	r.fits(sized(here, 2), l.at(3))
	larger, nothing := sized(here, 3), letter(here, 4)
	larger.Proof = append([]byte("1"), larger.Proof...)
	nothing.Body, nothing.Proof = nil, nil
	if l.inBytes {
		r.full(larger, l.at(3))
		r.fits(sized(here, 3), l.at(3))
		r.full(sized(here, 5), l.at(3))
	} else {
		r.fits(larger, l.at(3))
		r.full(nothing, l.at(3))
	}
}

// Mail that is larger than the limit doesn't fit into an empty mailbox either.
func testTooLarge(r *rig, l limit) {
	if mail := sized(here, 1); l.inBytes {
		mail.Body = append(mail.Body, 'b')
		r.full(mail, l.at(1))
		r.empty(here)
		require.Zero(r, r.usage(""))
	}
	r.fits(sized(here, 1), l.at(1))
}

func testRoomAfterAck(r *rig, l limit) {
	mails := r.fill(l)
	entries := r.holds(here, mails...)
	r.full(sized(here, 4), l.at(3))
	require.Equal(r, 2, r.ack(here, entries[1].ID))
	r.fits(sized(here, 4), l.at(3))
	r.fits(sized(here, 5), l.at(3))
	r.full(sized(here, 6), l.at(3))
	r.holds(here, mails[2], sized(here, 4), sized(here, 5))
}

func testOthersNotAffected(r *rig, l limit) {
	r.fill(l)
	r.full(sized(here, 4), l.at(3))
	elsewhere, stranger := sized(there, 1), sized(here, 5)
	stranger.Origin = "another.example"
	if l.ofStore {
		r.full(elsewhere, l.at(3))
	} else {
		r.fits(elsewhere, l.at(3))
	}
	if l.ofOrigin {
		r.fits(stranger, l.at(3))
	} else {
		r.full(stranger, l.at(3))
	}
}

func testExpiredDoesNotCount(r *rig, l limit) {
	for i := range 3 {
		_, err := r.Put(r.Context(), expiring(sized(here, i), 30*time.Millisecond), l.at(3))
		require.NoError(r, err)
	}
	late := sized(here, 4)
	if l.ofStore {
		late = sized(there, 4)
	}
	r.eventually("there is room for new mail", func() bool {
		stored, err := r.Put(r.Context(), late, l.at(3))
		if errors.Is(err, store.ErrFull) {
			return false
		}
		require.NoError(r, err)
		return stored
	})
}

func testCopiesFit(r *rig, l limit) {
	mails := r.fill(l)
	for _, mail := range mails {
		for _, limits := range []store.Limits{l.at(3), l.at(1)} {
			stored, err := r.Put(r.Context(), mail, limits)
			require.NoError(r, err)
			require.False(r, stored)
		}
	}
	require.Equal(r, 1, r.ack(here, r.holds(here, mails...)[0].ID))
	r.fits(sized(here, 4), l.at(3))
	stored, err := r.Put(r.Context(), mails[0], l.at(3))
	require.NoError(r, err, "a copy of acknowledged mail, into a full mailbox")
	require.False(r, stored)
}

func testFillAtOnce(r *rig, l limit) {
	fillAtOnce(r, l, r.Store)
}

// fillAtOnce fills all the room that there is, exactly, through all stores.
func fillAtOnce(r *rig, l limit, stores ...store.Store) {
	const room = 24
	destinations := []spec.ServerName{here}
	if l.ofStore {
		destinations = append(destinations, there, "elsewhere.example")
	}
	stored := r.putTwice(l, room, destinations, stores...)
	require.EqualValues(r, room, stored, "how many of the Puts said that they had stored it")
	require.Equal(r, store.Usage{Entries: room, Bytes: room * size}, r.usage(""))
	found := 0
	for _, destination := range destinations {
		found += len(r.all(destination))
	}
	require.Equal(r, room, found)
}

// putTwice puts twice as many mails as there is room for from many goroutines,
// through all stores, and returns how many were stored.
func (r *rig) putTwice(l limit, room int, destinations []spec.ServerName, stores ...store.Store) int64 {
	r.Helper()
	const putters = 8
	var stored atomic.Int64
	r.together(putters, func(i int) error {
		for j := range 2 * room / putters {
			mail := sized(destinations[j%len(destinations)], 100*i+j)
			isNew, err := stores[i%len(stores)].Put(r.Context(), mail, l.at(int64(room)))
			if isNew {
				stored.Add(1)
			}
			if err != nil && !errors.Is(err, store.ErrFull) {
				return err
			}
		}
		return nil
	})
	return stored.Load()
}

func testLimitOfPut(r *rig) {
	for i := range 3 {
		r.fits(sized(here, i), store.Limits{Entries: 3})
	}
	r.full(sized(here, 3), store.Limits{Entries: 1})
	r.full(sized(here, 3), store.Limits{Entries: 3})
	r.fits(sized(here, 3), store.Limits{Entries: 4})
	r.fits(sized(here, 4), store.Limits{})
	r.full(sized(here, 5), store.Limits{Entries: 4})
}

// One limit must not hide another.
func testLimitsTogether(r *rig) {
	roomy := store.Limits{Entries: 10, Bytes: 10 * size, OriginEntries: 10, OriginBytes: 10 * size, StoreBytes: 10 * size}
	r.fits(sized(here, 1), roomy)
	for _, tighten := range []func(*store.Limits){
		func(l *store.Limits) { l.Entries = 1 },
		func(l *store.Limits) { l.Bytes = size },
		func(l *store.Limits) { l.OriginEntries = 1 },
		func(l *store.Limits) { l.OriginBytes = size },
		func(l *store.Limits) { l.StoreBytes = size },
	} {
		limits := roomy
		tighten(&limits)
		r.full(sized(here, 2), limits)
	}
	r.fits(sized(here, 2), roomy)
}

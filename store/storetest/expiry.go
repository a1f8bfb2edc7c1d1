package storetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var expiryTests = []test{
	{"the rest of a lifetime", testLifetimeLeft},
	{"the shortest and the longest", testShortAndLong},
	{"expires soon", testExpiresSoon},
	{"mail behind expired mail is shown", testBehindExpired},
	{"Ack beyond expired entries", testAckBeyondExpired},
	{"a copy of expired mail", testCopyOfExpired},
	{"Usage and Destinations", testExpiredIsNotUsed},
	{"a mailbox of mail that expires in any order", testExpiresInAnyOrder},
}

func expiring(mail store.Mail, in time.Duration) store.Mail {
	mail.Lifetime = in
	return mail
}

// keepSoon puts mail that expires soon. A test can't rely on seeing it before:
// even the Put may come too late, and a store may say of expired mail that it
// wasn't stored, so keepSoon tries again with more time.
func (r *rig) keepSoon(mail store.Mail) {
	r.Helper()
	for in := 30 * time.Millisecond; !r.put(expiring(mail, in)); in *= 2 {
		require.Less(r, in, patience, "mail that will expire is taken for a copy")
	}
}

// Between the two measurements lies all that the store can have counted.
func testLifetimeLeft(r *rig) {
	const lifetime = time.Hour + 654321*time.Nanosecond
	began := time.Now()
	r.keep(expiring(letter(here, 1), lifetime))
	for range 3 {
		left := r.all(here)[0].Lifetime
		require.LessOrEqual(r, left, lifetime+time.Millisecond)
		require.GreaterOrEqual(r, left, lifetime-time.Since(began)-2*time.Millisecond, "more time is gone than has passed")
		settle()
	}
	r.eventually("its lifetime gets shorter", func() bool { return r.all(here)[0].Lifetime < lifetime-10*time.Millisecond })
}

// The shortest lifetime is a short one, and no lifetime is for ever.
func testShortAndLong(r *rig) {
	forever := []store.Mail{letter(here, 1), expiring(letter(here, 2), -time.Hour), expiring(letter(here, 3), -1)}
	r.keep(forever...)
	r.put(expiring(letter(here, 4), 1))
	r.untilHolds(forever...)
	settle()
	r.holds(here, forever...)
}

// untilHolds waits until here holds exactly these mails.
func (r *rig) untilHolds(want ...store.Mail) []store.Entry {
	r.Helper()
	var entries []store.Entry
	r.eventually("expired mail is gone", func() bool {
		entries = r.all(here)
		return compare(want, entries) == nil
	})
	return entries
}

func testExpiresSoon(r *rig) {
	other := expiring(letter(there, 1), time.Hour)
	r.keepSoon(letter(here, 1))
	r.keep(other)
	r.untilHolds()
	r.empty(here)
	r.holds(there, other)
}

func testBehindExpired(r *rig) {
	lasting := []store.Mail{letter(here, 1), letter(here, 3), letter(here, 5)}
	r.keep(lasting[0])
	r.keepSoon(letter(here, 2))
	r.keep(lasting[1])
	r.keepSoon(letter(here, 4))
	r.keep(lasting[2])
	entries := r.untilHolds(lasting...)
	require.Equal(r, ids(entries[:2]), r.nextIDs(0, 2, plenty))
	require.Equal(r, ids(entries[1:2]), r.nextIDs(entries[0].ID, 1, plenty))
	require.Equal(r, ids(entries[2:]), r.nextIDs(entries[1].ID, 1, 0))
}

func testAckBeyondExpired(r *rig) {
	lasting := []store.Mail{letter(here, 3), letter(here, 4)}
	r.keepSoon(letter(here, 1))
	r.keepSoon(letter(here, 2))
	r.keep(lasting...)
	entries := r.untilHolds(lasting...)
	require.Contains(r, []int{1, 2, 3}, r.ack(here, entries[0].ID), "the expired ones may be counted or not")
	r.holds(here, lasting[1])
	require.Equal(r, 1, r.ack(here, entries[1].ID))
	r.empty(here)
}

func testCopyOfExpired(r *rig) {
	mail := letter(here, 1)
	r.keepSoon(mail)
	r.untilHolds()
	require.False(r, r.put(mail))
	r.empty(here)
}

func testExpiredIsNotUsed(r *rig) {
	lasting := letter(here, 3)
	r.keepSoon(letter(here, 1))
	r.keep(lasting)
	r.keepSoon(letter(there, 2))
	r.eventually("expired mail isn't counted", func() bool {
		return r.usage(here) == store.Usage{Entries: 1, Bytes: lasting.Size()} &&
			r.usage(there) == store.Usage{} && r.usage("") == r.usage(here)
	})
	r.eventually("a destination whose mail has expired isn't listed", func() bool { return len(r.destinations(10)) == 1 })
	require.Equal(r, 1, r.ack(here, r.holds(here, lasting)[0].ID))
	require.Zero(r, r.usage(""))
}

func testExpiresInAnyOrder(r *rig) {
	var lasting []store.Mail
	for i := range 40 {
		mail := letter(here, i)
		switch i * i % 5 {
		case 0:
			r.put(expiring(mail, 10*time.Millisecond))
		case 1:
			r.put(expiring(mail, time.Duration(40-i)*time.Millisecond))
		default:
			mail = expiring(mail, time.Duration(40-i)*time.Hour)
			r.keep(mail)
			lasting = append(lasting, mail)
		}
	}
	r.untilHolds(lasting...)
	r.eventually("expired mail isn't counted", func() bool {
		return r.usage(here) == store.Usage{Entries: int64(len(lasting)), Bytes: bytesOf(lasting...)}
	})
}

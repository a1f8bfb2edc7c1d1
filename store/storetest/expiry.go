package storetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var expiryTests = []test{
	{"expired before Put", testExpiredBefore},
	{"expires soon", testExpiresSoon},
	{"what is behind is shown", testBehindExpired},
	{"Ack beyond expired entries", testAckBeyondExpired},
	{"a copy of what expired", testCopyOfExpired},
	{"Usage and Destinations", testExpiredIsNotUsed},
	{"a mailbox of mail that expires in any order", testExpiresInAnyOrder},
}

func expiring(mail store.Mail, in time.Duration) store.Mail {
	mail.Expires = time.Now().Add(in).Truncate(time.Millisecond)
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

// Mail that has expired may be taken or dropped, but is not an error, and
// never shown.
func testExpiredBefore(r *rig) {
	for i, expires := range []time.Time{
		time.Now().Add(-time.Hour), time.Now().Add(-time.Second), time.Unix(0, 0), time.Unix(0, 1e6), time.Unix(-1, 0),
	} {
		mail := letter(here, i)
		mail.Expires = expires
		for range 2 {
			r.put(mail)
			r.empty(here)
		}
	}
	r.keep(letter(here, 10))
	r.holds(here, letter(here, 10))
}

// gone waits until here holds exactly these mails.
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

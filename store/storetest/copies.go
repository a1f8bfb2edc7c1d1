package storetest

import (
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var copyTests = []test{
	{"a copy stores nothing", testCopy},
	{"a copy may look different", testCopyLooksDifferent},
	{"each part of the key counts", testKeyParts},
	{"the parts of the key are kept apart", testKeyPartsApart},
	{"a copy after Ack", testCopyAfterAck},
	{"copies at once", testCopiesAtOnce},
}

// forgettingTests run with a short retention.
var forgettingTests = []test{
	{"a copy after the retention is stored", testForgotten},
	{"what is kept is not forgotten", testKeptIsNotForgotten},
}

func testCopy(r *rig) {
	mails := letters(here, 3)
	r.keep(mails...)
	for range 2 {
		for _, mail := range mails {
			require.False(r, r.put(mail))
		}
	}
	r.holds(here, mails...)
	require.Equal(r, store.Usage{Entries: 3, Bytes: bytesOf(mails...)}, r.usage(here))
}

func testCopyLooksDifferent(r *rig) {
	mail := letter(here, 1)
	r.keep(mail)
	for _, change := range []func(*store.Mail){
		func(m *store.Mail) { m.Body = []byte("another body") },
		func(m *store.Mail) { m.Body = nil },
		func(m *store.Mail) { m.Proof = []byte("another proof") },
		func(m *store.Mail) { m.Proof = nil },
		func(m *store.Mail) { m.Expires = time.Now().Add(time.Hour) },
		func(m *store.Mail) { m.Expires = time.Now().Add(-time.Hour) },
	} {
		changed := mail
		change(&changed)
		require.False(r, r.put(changed))
		r.holds(here, mail)
	}
}

func testKeyParts(r *rig) {
	mail := letter(here, 1)
	variants := []store.Mail{mail, mail, mail, mail, mail}
	variants[1].Destination = there
	variants[2].Origin = "another.example"
	variants[3].TransactionID = "another"
	variants[4].Digest[31]++
	r.keep(variants...)
	for _, variant := range variants {
		require.False(r, r.put(variant))
	}
	r.holds(here, variants[0], variants[2], variants[3], variants[4])
	r.holds(there, variants[1])
}

// A key that is put together from its parts must not be ambiguous.
func testKeyPartsApart(r *rig) {
	for _, between := range []string{"", ".", ":", "-"} {
		mail := letter(here, 1)
		mail.Origin, mail.TransactionID = spec.ServerName("a"+between+"b"), "c"
		r.keep(mail)
		mail.Origin, mail.TransactionID = "a", gomatrixserverlib.TransactionID("b"+between+"c")
		r.keep(mail)

		mail = letter(here, 2)
		mail.Destination, mail.Origin = spec.ServerName("a"+between+"b"), "c"
		r.keep(mail)
		mail.Destination, mail.Origin = "a", spec.ServerName("b"+between+"c")
		r.keep(mail)
	}
}

func testCopyAfterAck(r *rig) {
	mails := letters(here, 3)
	r.keep(mails...)
	entries := r.holds(here, mails...)
	for i, entry := range entries {
		require.Equal(r, 1, r.ack(here, entry.ID))
		for _, mail := range mails {
			require.False(r, r.put(mail))
		}
		r.holds(here, mails[i+1:]...)
	}
	require.Zero(r, r.usage(""))
}

func testCopiesAtOnce(r *rig) {
	copiesAtOnce(r, r.Store)
}

// copiesAtOnce puts the same mails from many goroutines, through all stores.
func copiesAtOnce(r *rig, stores ...store.Store) {
	mails := letters(here, 3)
	for _, mail := range mails {
		var stored atomic.Int32
		r.together(32, func(i int) error {
			isNew, err := stores[i%len(stores)].Put(r.Context(), mail, store.Limits{})
			if isNew {
				stored.Add(1)
			}
			return err
		})
		require.EqualValues(r, 1, stored.Load(), "how many of the Puts said that they had stored it")
	}
	r.holds(here, mails...)
}

func testForgotten(r *rig) {
	mail := letter(here, 1)
	r.keep(mail)
	first := r.holds(here, mail)[0].ID
	require.Equal(r, 1, r.ack(here, first))
	r.eventually("the mail is stored anew", func() bool { return r.put(mail) })
	again := r.holds(here, mail)[0].ID
	require.Greater(r, again, first)
}

func testKeptIsNotForgotten(r *rig) {
	kept, gone := letter(here, 1), letter(there, 1)
	r.keep(kept, gone)
	require.Equal(r, 1, r.ack(there, r.holds(there, gone)[0].ID))
	r.eventually("the store forgets at all", func() bool { return r.put(gone) })
	require.False(r, r.put(kept))
	r.holds(here, kept)
}

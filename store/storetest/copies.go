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
	{"a question for a copy", testCopyQuestion},
}

// forgettingTests run with a short retention.
var forgettingTests = []test{
	{"a copy after the retention is stored", testForgotten},
	{"kept mail is not forgotten", testKeptIsNotForgotten},
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
		func(m *store.Mail) { m.Lifetime = time.Hour },
		func(m *store.Mail) { m.Lifetime = time.Nanosecond },
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

// A Put that fits into no mailbox says whether mail is known and stores nothing,
// which is how package move asks.
func testCopyQuestion(r *rig) {
	isKnown := func(mail store.Mail) bool {
		mail.Body, mail.Proof = []byte("{}"), nil
		stored, err := r.Put(r.Context(), mail, store.Limits{Bytes: 1})
		require.False(r, stored)
		if err != nil {
			require.ErrorIs(r, err, store.ErrFull)
		}
		return err == nil
	}
	mails := letters(here, 4)
	mails[1].Body, mails[1].Proof = nil, nil
	short := letter(there, 1)
	for _, mail := range append(mails, short) {
		require.False(r, isKnown(mail))
		require.False(r, isKnown(mail), "it wasn't kept by the question")
	}
	r.uses(nil, nil)
	r.keep(mails[:3]...)
	r.keepSoon(short)
	r.ack(here, r.holds(here, mails[:3]...)[1].ID)
	r.eventually("the mail expires", func() bool { _, err := r.Next(r.Context(), there, 0, 1, plenty); return err != nil })
	for _, mail := range append(mails[:3:3], short) {
		require.True(r, isKnown(mail))
	}
	require.False(r, isKnown(mails[3]))
	r.holds(here, mails[2])
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

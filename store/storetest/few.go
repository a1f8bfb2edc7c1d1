package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// few are limits of how many transactions are remembered that aren't kept any more; zero
// is those of the store.
type few struct{ ofAll, ofOrigin int64 }

var fewTests = []test{
	{"an origin loses its own oldest", testFewOfOrigin},
	{"the origin with most loses", testFewOfAll},
	{"made-up names", testFewOfNames},
	{"mail isn't touched", testFewKeepsMail},
	{"many with one Ack", testFewAtOnce},
	{"many with one Remove", testFewRemoved},
	{"expired mail", testFewExpired},
	{"reopened", testFewReopened},
}

var fewModelTests = []test{{"copies", func(r *rig) { r.seeds(testModel) }}}

// lettersFrom returns n letters from an origin.
func lettersFrom(from spec.ServerName, n int) []store.Mail {
	mails := letters(here, n)
	for i := range mails {
		mails[i].Origin = from
	}
	return mails
}

// pass puts mails and acknowledges each before the next.
func (r *rig) pass(mails ...store.Mail) {
	r.Helper()
	for _, mail := range mails {
		r.keep(mail)
		require.Equal(r, 1, r.ack(mail.Destination, r.holds(mail.Destination, mail)[0].ID))
	}
}

// remembers requires that these are taken for copies.
func (r *rig) remembers(mails ...store.Mail) {
	r.Helper()
	for _, mail := range mails {
		require.False(r, r.put(mail), "%q of %s was forgotten", mail.TransactionID, mail.Origin)
	}
}

// forgets requires that these are stored anew, soon.
func (r *rig) forgets(mails ...store.Mail) {
	r.Helper()
	for _, mail := range mails {
		r.eventually(fmt.Sprintf("%q of %s is forgotten", mail.TransactionID, mail.Origin), func() bool { return r.put(mail) })
	}
}

// copies is how many the store says that it remembers.
func (r *rig) copies() int64 {
	r.Helper()
	sizes, err := r.Store.(store.Measured).Sizes(r.Context())
	require.NoError(r, err)
	return sizes.Copies
}

func testFewOfOrigin(r *rig) {
	others := append(lettersFrom("a.example", 2), lettersFrom("b.example", 2)...)
	r.pass(others...)
	r.eventually("all are counted", func() bool { return r.copies() == 4 })
	mails := lettersFrom("hostile.example", 20)
	r.pass(mails...)
	r.eventually("it has its part only", func() bool { return r.copies() == 4+4 })
	r.remembers(others...)
	r.remembers(mails[16:]...)
	r.forgets(mails[:16]...)
}

func testFewOfAll(r *rig) {
	honest := lettersFrom("honest.example", 2)
	r.pass(honest...)
	for i := range 4 {
		r.pass(lettersFrom(spec.ServerName(fmt.Sprint(i, ".example")), 4)...)
	}
	r.eventually("the limit is kept", func() bool { return r.copies() == 12 })
	r.remembers(honest...)
	for i := range 4 {
		r.remembers(lettersFrom(spec.ServerName(fmt.Sprint(i, ".example")), 4)[2:]...)
	}
}

// Names cost nothing, so the limit of all must hold, too.
func testFewOfNames(r *rig) {
	var mails []store.Mail
	for i := range 40 {
		mails = append(mails, lettersFrom(spec.ServerName(fmt.Sprint(i, ".example")), 1)...)
	}
	r.pass(mails...)
	r.eventually("the limit is kept", func() bool { return r.copies() == 12 })
}

func testFewKeepsMail(r *rig) {
	kept := letters(there, 20)
	r.keep(kept...)
	mails := letters(here, 20)
	r.pass(mails...)
	r.eventually("the limit is kept", func() bool { return r.copies() == 4 })
	r.remembers(kept...)
	r.holds(there, kept...)
	r.uses(nil, kept)
}

func testFewAtOnce(r *rig) {
	mails := letters(here, 30)
	r.keep(mails...)
	require.Equal(r, 30, r.ack(here, r.holds(here, mails...)[29].ID))
	r.eventually("the limit is kept", func() bool { return r.copies() == 4 })
	r.remembers(mails[26:]...)
	r.forgets(mails[:26]...)
	r.holds(here, mails[:26]...)
}

// The oldest are forgotten, in whatever order they were named.
func testFewRemoved(r *rig) {
	managed, mails := r.managed(), letters(here, 8)
	r.keep(mails...)
	remove := ids(r.holds(here, mails...))
	slices.Reverse(remove)
	removed, err := managed.Remove(r.Context(), here, remove)
	require.NoError(r, err)
	require.Equal(r, 8, removed)
	r.eventually("the limit is kept", func() bool { return r.copies() == 4 })
	r.remembers(mails[4:]...)
	r.forgets(mails[:4]...)
}

func testFewExpired(r *rig) {
	for _, mail := range letters(here, 8) {
		r.keepSoon(mail)
	}
	kept := letter(there, 1)
	r.keep(kept)
	r.eventually("they expire and are forgotten", func() bool { return r.usage(here).Entries == 0 && r.copies() == 4 })
	r.holds(there, kept)
}

// The limit of all holds for those of before, too.
func testFewReopened(r *rig) {
	if r.place.Volatile {
		r.Skip("nothing is remembered")
	}
	for i := range 4 {
		r.pass(lettersFrom(spec.ServerName(fmt.Sprint(i, ".example")), 3)...)
	}
	r.reopen()
	after := lettersFrom("after.example", 20)
	r.pass(after...)
	r.eventually("the limit is kept", func() bool { return r.copies() <= 12 })
	r.remembers(after[17:]...)
}

// A mailKey has the fields by which mail is the same mail.
type mailKey struct {
	to, from spec.ServerName
	id       gomatrixserverlib.TransactionID
	digest   store.Digest
}

func keyOf(mail *store.Mail) mailKey {
	return mailKey{mail.Destination, mail.Origin, mail.TransactionID, mail.Digest}
}

// leave notes mail that was acknowledged.
func (m *model) leave(entries []store.Entry) {
	for i := range entries {
		from := entries[i].Origin
		m.left[from] = append(m.left[from], keyOf(&entries[i].Mail))
	}
}

// isRemembered reports whether a store with these limits must recognise mail that it had.
func (m *model) isRemembered(mail *store.Mail) bool {
	left, key := m.left[mail.Origin], keyOf(mail)
	isKept := slices.ContainsFunc(m.boxes[mail.Destination], func(entry store.Entry) bool { return keyOf(&entry.Mail) == key })
	if isKept || m.few == (few{}) {
		return true
	}
	return slices.Contains(left[max(0, len(left)-int(m.few.ofOrigin)):], key)
}

// putForgotten puts mail that the store may have forgotten.
func (m *model) putForgotten(mail store.Mail) {
	mail.Lifetime = time.Hour
	if m.put(mail) {
		m.note("it was forgotten")
		m.accept(mail)
	}
}

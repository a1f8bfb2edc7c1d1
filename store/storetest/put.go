package storetest

import (
	"bytes"
	"math"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var putTests = []test{
	{"every field comes back", testRoundTrip},
	{"odd destinations", testOddDestinations},
	{"odd origins", testOddOrigins},
	{"odd transaction IDs", testOddTransactionIDs},
	{"names that no store keeps", testInvalid},
	{"entries can be appended to", testAppendToEntry},
}

func testRoundTrip(r *rig) {
	mails := oddMails()
	r.keep(mails...)
	r.holds(here, mails...)
}

// oddMails returns mails for here whose fields are at their limits. Their
// transaction IDs name the oddity.
func oddMails() []store.Mail {
	var mails []store.Mail
	odd := func(name string, change func(*store.Mail)) {
		mail := letter(here, len(mails))
		mail.TransactionID = gomatrixserverlib.TransactionID(name)
		change(&mail)
		mails = append(mails, mail)
	}
	odd("nothing odd", func(*store.Mail) {})
	odd("binary body", func(m *store.Mail) { m.Body = pattern(1 << 10) })
	odd("binary proof", func(m *store.Mail) { m.Proof = pattern(64 << 10) })
	odd("no body", func(m *store.Mail) { m.Body = nil })
	odd("no proof", func(m *store.Mail) { m.Proof = nil })
	odd("empty proof", func(m *store.Mail) { m.Proof = []byte{} })
	odd("neither body nor proof", func(m *store.Mail) { m.Body, m.Proof = nil, nil })
	odd("largest body", func(m *store.Mail) { m.Body = pattern(10 << 20) })
	odd("digest of zeros", func(m *store.Mail) { m.Digest = store.Digest{} })
	odd("digest of ones", func(m *store.Mail) { m.Digest = store.Digest(bytes.Repeat([]byte{0xff}, 32)) })
	odd("from itself", func(m *store.Mail) { m.Origin = m.Destination })
	odd("lifetime", func(m *store.Mail) { m.Lifetime = 24*time.Hour + time.Millisecond })
	odd("long lifetime", func(m *store.Mail) { m.Lifetime = math.MaxInt64 })
	odd("long lifetime in whole milliseconds", func(m *store.Mail) { m.Lifetime = time.Duration(math.MaxInt64).Truncate(time.Millisecond) })
	odd("for ever", func(m *store.Mail) { m.Lifetime = -1 })
	odd("for ever and ever", func(m *store.Mail) { m.Lifetime = math.MinInt64 })
	return mails
}

// pattern returns n bytes of all values, in a sequence whose length divides no
// block or page size.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i + i/251)
	}
	return b
}

// oddNames are names that a store might mix up or sort in another order than
// that of their bytes.
var oddNames = []spec.ServerName{
	"a", "A", "a.b", "A.b", "a.B", "a.b.c", "ab", "a-b", "a:8448", "b", "B", "Z", "z",
	"10.example", "9.example", "1.2.3.4", "1.2.3.4:8448", "[::1]:8448", "[::1]", "[2001:db8::1]:8448",
	"xn--bcher-kva.example", "bcher.example",
	longName + "a", longName + "b", longName,
	" ", "\x00", "a\x00", "a\x00b", "\xff", "\xfe\xff", "*", ">", "a.*", "a.>", "a b", "A\n", "%", "_", "'", `\`, `"`, "ä", "a\u0308",
	spec.ServerName(strings.Repeat("x", store.MaxName)), spec.ServerName(strings.Repeat("x", store.MaxName-1)),
}

// longName leaves one character to 230, the longest that a server name can be.
var longName = spec.ServerName(strings.Repeat("long-label.", 23)[:229])

func testOddDestinations(r *rig) {
	for _, name := range oddNames {
		mail := letter(name, 1)
		mail.TransactionID, mail.Digest = "same", store.Digest{}
		r.keep(mail)
	}
	for _, name := range oddNames {
		entries := r.all(name)
		require.Len(r, entries, 1, "mailbox of %q", name)
		require.Equal(r, name, entries[0].Destination)
		require.Equal(r, letter(name, 1).Body, entries[0].Body)
		require.EqualValues(r, 1, r.usage(name).Entries)
	}
	for i, name := range oddNames {
		require.Equal(r, 1, r.ack(name, r.all(name)[0].ID))
		require.EqualValues(r, len(oddNames)-i-1, r.usage("").Entries)
	}
}

func testOddOrigins(r *rig) {
	var mails []store.Mail
	for _, name := range oddNames {
		mail := letter(here, 1)
		mail.Origin = name
		mails = append(mails, mail)
	}
	r.keep(mails...)
	r.holds(here, mails...)
}

// oddTransactionIDs are all different. A transaction ID is any text that a sender
// put into a path, percent-decoded: any bytes.
var oddTransactionIDs = []gomatrixserverlib.TransactionID{
	"1", "01", "1.0", "-1", "1 ", " 1", "1\n", "", " ", "a", "A", "a/b", "a%2Fb", "../a", "a.b", ".", "..",
	"*", ">", "a.*", "a.>", "$", "$G", "%", "_", "a_b", `\`, `\\`, `a\b`, `"`, "'", "''", "'; --", "`", "null", "NULL",
	"ä", "a\u0308", "日本語", "🦀", "\x00", "a\x00", "a\x00b", "\xff", "\xfe\xff", "\x7f", "\r\n",
	gomatrixserverlib.TransactionID(strings.Repeat("x", store.MaxTransactionID-1)), gomatrixserverlib.TransactionID(strings.Repeat("x", store.MaxTransactionID)),
}

func testOddTransactionIDs(r *rig) {
	var mails []store.Mail
	for _, id := range oddTransactionIDs {
		mail := letter(here, 1)
		mail.TransactionID = id
		mails = append(mails, mail)
	}
	r.keep(mails...)
	r.holds(here, mails...)
	for _, mail := range mails {
		require.False(r, r.put(mail), "a copy of %q was stored", mail.TransactionID)
	}
}

func testInvalid(r *rig) {
	long := strings.Repeat("x", store.MaxTransactionID+1)
	for name, change := range map[string]func(*store.Mail){
		"for nobody":            func(m *store.Mail) { m.Destination = "" },
		"for a long name":       func(m *store.Mail) { m.Destination = spec.ServerName(long[:store.MaxName+1]) },
		"from a long name":      func(m *store.Mail) { m.Origin = spec.ServerName(long[:store.MaxName+1]) },
		"a long transaction ID": func(m *store.Mail) { m.TransactionID = gomatrixserverlib.TransactionID(long) },
	} {
		mail := letter(here, 1)
		change(&mail)
		stored, err := r.Put(r.Context(), mail, store.Limits{})
		require.ErrorIs(r, err, store.ErrInvalid, name)
		require.False(r, stored)
		if batches, ok := r.Store.(store.Batches); ok {
			require.ErrorIs(r, batches.PutAll(r.Context(), []store.Mail{mail}), store.ErrInvalid, name)
		}
	}
	require.Zero(r, r.usage(""))
}

// Bytes that a caller appends to a returned body must not get into another one.
func testAppendToEntry(r *rig) {
	shared := []byte("first|second")
	first, second := letter(here, 1), letter(here, 2)
	first.Body, second.Body = shared[:5], shared[6:]
	r.keep(first, second)
	for _, entry := range r.all(here) {
		_ = append(entry.Body, "!!!"...)
		_ = append(entry.Proof, "!!!"...)
	}
	r.holds(here, first, second)
	require.Equal(r, "first|second", string(shared))
}

package storetest

import (
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var usageTests = []test{
	{"nothing", testNoUsage},
	{"Put and Ack", testUsage},
	{"calls that store nothing", testUsageOfNothing},
}

func testNoUsage(r *rig) {
	require.Zero(r, r.usage(""))
	require.Zero(r, r.usage(here))
	r.keep(letter(there, 1))
	require.Zero(r, r.usage(here))
}

// uses requires that the mailboxes hold these mails by Usage.
func (r *rig) uses(atHere, atThere []store.Mail) {
	r.Helper()
	h := store.Usage{Entries: int64(len(atHere)), Bytes: bytesOf(atHere...)}
	t := store.Usage{Entries: int64(len(atThere)), Bytes: bytesOf(atThere...)}
	require.Equal(r, h, r.usage(here))
	require.Equal(r, t, r.usage(there))
	require.Equal(r, store.Usage{Entries: h.Entries + t.Entries, Bytes: h.Bytes + t.Bytes}, r.usage(""))
}

func testUsage(r *rig) {
	a, b := letters(here, 4), letters(there, 3)
	a[1].Body, a[2].Proof = nil, nil
	a[3].Origin = "another.example"
	for i := range a {
		r.keep(a[i])
		r.uses(a[:i+1], nil)
	}
	r.keep(b...)
	r.uses(a, b)
	r.ack(here, r.holds(here, a...)[1].ID)
	r.uses(a[2:], b)
	r.ack(there, r.holds(there, b...)[2].ID)
	r.uses(a[2:], nil)
	r.ack(here, r.holds(here, a[2:]...)[1].ID)
	r.uses(nil, nil)
}

func testUsageOfNothing(r *rig) {
	a, b := letters(here, 2), letters(there, 1)
	r.keep(a...)
	r.keep(b...)
	require.False(r, r.put(a[0]))
	r.uses(a, b)
	r.full(letter(here, 3), store.Limits{Entries: 2})
	r.uses(a, b)
	r.ack(here, store.MaxID)
	r.ack("nobody.example", 1)
	r.uses(a, b)
	r.ack(here, r.all(here)[0].ID)
	require.False(r, r.put(a[0]))
	r.uses(a[1:], b)
}

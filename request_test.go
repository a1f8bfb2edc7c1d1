package relay

import (
	"crypto/ed25519"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/wire"
)

func requestFrom(name string, known bool) *request {
	q := &request{
		SignedRequest: wire.SignedRequest{Authorization: []string{`X-Matrix origin="` + name + `",key="ed25519:1",sig="AAAA"`}},
		from:          address.Of(netip.MustParseAddr("203.0.113.1")),
	}
	if known {
		q.admission.asked.Known = "phone"
	}
	return q
}

// The debts of others at an address aren't those of a server on a connection that counts
// for it, and neither is the memory that they hold.
func TestKnownServerIsNotItsAddress(t *testing.T) {
	flood, phone, stranger := requestFrom("flood", false).holder(), requestFrom("phone", true).holder(), requestFrom("phone", false).holder()
	r, c := newRepeats(), newChecks()
	again := []given{{1, 1 << 20}}
	for range 4 * 140 {
		r.charge(flood, again)
	}
	c.debts.add(flood.from, time.Hour)
	for _, one := range []struct {
		by      holder
		refused bool
	}{{phone, false}, {stranger, true}} {
		_, err := r.may(one.by, false)
		require.Equal(t, one.refused, err != nil)
		err = c.await(t.Context(), one.by.from)
		require.Equal(t, one.refused, err != nil)
	}
	b := newBudget(100)
	b.grace = 0
	held := b.share(flood, func() bool { return true })
	require.True(t, held.set(90, false))
	require.True(t, b.share(phone, nil).set(10, false))
	require.Len(t, b.parties, 2)
}

// A record, too, is checked for the server that the connection counts for.
func TestRecordOfKnownServer(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	record, err := wire.SignRelayRecord(wire.RelayRecord{Relays: []wire.RecordRelay{{Name: "relay"}}}, wire.HexIdentity(key))
	require.NoError(t, err)
	checks := newChecks()
	r := &records{config: &Config{Keys: wire.HexKeys{}}, checks: checks}
	checks.debts.add(requestFrom("flood", false).holder().from, time.Hour)
	for _, known := range []bool{false, true} {
		q := requestFrom("phone", known)
		q.memory = newBudget(100).share(q.holder(), nil)
		err := r.compare(t.Context(), q, &record, nil)
		require.Equal(t, known, err == nil, "%v", err)
	}
}

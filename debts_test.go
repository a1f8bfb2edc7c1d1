package relay

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/address"
)

func TestDebts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDebts[string]()
		d.add("a", -time.Second)
		require.Zero(t, d.owed("a"), "nobody can pay before")
		d.add("a", 3*time.Second)
		d.add("a", 2*time.Second)
		require.Equal(t, 5*time.Second, d.owed("a"))
		require.Zero(t, d.owed("b"))
		time.Sleep(time.Second)
		require.Equal(t, 4*time.Second, d.owed("a"))
		d.add("a", -time.Second)
		require.Equal(t, 3*time.Second, d.owed("a"))
		d.add("a", -time.Minute)
		require.Zero(t, d.owed("a"))
		require.Empty(t, d.paidBy)
		d.add("a", time.Second)
		time.Sleep(time.Hour)
		d.add("a", time.Second)
		require.Equal(t, time.Second, d.owed("a"), "it counts from now")
		for _, use := range []func(){func() { d.add("a", time.Second) }, func() { d.owed("a") }} {
			d.paidBy["a"] = time.Now().AddDate(200, 0, 0) // and the clock was set back
			use()
			require.LessOrEqual(t, d.owed("a"), time.Second)
		}
	})
}

// All addresses of one site owe together, but not as much as each of them.
func TestDebtsOfSites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newAddressDebts()
		of := func(text string) address.From { return address.Of(netip.MustParseAddr(text)) }
		for i := range 1000 {
			d.add(of(fmt.Sprintf("2a01:db8:1:%x::1", i)), time.Second)
		}
		require.Equal(t, 1000*time.Second/address.Wide, d.owed(of("2a01:db8:1:ffff::1")))
		require.Zero(t, d.owed(of("2a01:db8:2::1")))
		d.add(of("2a01:db8:2::1"), address.Wide*time.Second)
		require.Equal(t, time.Second, d.owed(of("2a01:db8:2:1::1")))
		d.add(of("2a01:db8:2::1"), -address.Wide*time.Second)
		require.Zero(t, d.owed(of("2a01:db8:2:1::1")))
		d.add(of("192.0.2.1"), time.Second)
		require.Equal(t, time.Second, d.owed(of("192.0.2.1")))
		require.Zero(t, d.owed(of("192.0.2.2")))
	})
}

// There is a bound on the debts that are remembered, and the largest aren't forgotten.
func TestDebtsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDebts[int]()
		d.add(-1, time.Hour)
		for i := range 10 * maxDebtors {
			d.add(i, time.Duration(i)*time.Microsecond+time.Second)
			require.LessOrEqual(t, len(d.paidBy), maxDebtors)
		}
		require.Equal(t, time.Hour, d.owed(-1))
		require.Positive(t, d.owed(10*maxDebtors-1))
		time.Sleep(time.Minute)
		for i := range maxDebtors / 2 {
			d.add(i, time.Second)
		}
		require.Equal(t, time.Hour-time.Minute, d.owed(-1))
		require.Positive(t, d.owed(0), "what is paid off makes room first")
	})
}

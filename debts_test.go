package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
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
	})
}

// However many there are, there is a bound on the debts that are remembered, and the
// largest aren't forgotten.
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

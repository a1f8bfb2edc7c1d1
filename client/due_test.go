package client

import (
	"fmt"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/wire"
)

// Receipts that a relay doesn't take now don't become more and more while mail comes.
func TestDueIsBounded(t *testing.T) {
	var g giving
	for i := range 20 {
		ahead := g // see askAhead
		g.due = nil
		for j := range maxDue / 2 {
			g.owe("a", wire.ReceiptItem{TransactionID: gomatrixserverlib.TransactionID(fmt.Sprint(i, "-", j))})
		}
		g.join(ahead)
		require.LessOrEqual(t, len(g.due), maxDue)
	}
	require.EqualValues(t, "0-0", g.due[0].item.TransactionID)
}

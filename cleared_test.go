package relay

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	memorystore "github.com/matrixrelay/relay/store/memory"
)

// TestClearedIsForgotten: the marks of cleared mail leave the store after a day,
// also of mailboxes from which nothing is cleared any more.
func TestClearedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := memorystore.New(memorystore.Options{})
		defer func() { require.NoError(t, mail.Close()) }()
		c := newClearing(mail, newKeptReceipts(mail, &Config{Store: mail, MaxReceipts: DefaultMaxReceipts}))
		remove := func(from int) {
			for i := range 20 {
				name := spec.ServerName(fmt.Sprintf("gone%03d.example", from+i))
				clearOne(t, c, mail, name)
			}
		}
		remove(0)
		notes, err := mail.Notes(t.Context(), clearedPrefix, "", 100)
		require.NoError(t, err)
		require.Len(t, notes, 20)
		time.Sleep(clearedLasts + time.Hour)
		remove(20)
		remove(40)
		notes, err = mail.Notes(t.Context(), clearedPrefix, "", 100)
		require.NoError(t, err)
		require.Len(t, notes, 40)
	})
}

// clearOne clears the only entry of a mailbox.
func clearOne(t *testing.T, c *clearing, mail store.Store, name spec.ServerName) {
	ctx := context.Background()
	_, err := mail.Put(ctx, store.Mail{Destination: name, Origin: "a.example", TransactionID: "t", Body: []byte("{}")}, store.Limits{})
	require.NoError(t, err)
	entries, err := mail.Next(ctx, name, 0, 1, 1)
	require.NoError(t, err)
	removed, err := c.remove(ctx, name, []int64{entries[0].ID})
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	require.NoError(t, c.forget(ctx))
}

package client_test

import (
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
)

// TestDamagedNotes: a Node opens though notes of it can't be read, uses all others, keeps the
// damaged ones elsewhere, and says so.
func TestDamagedNotes(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1, r2)
		alice, bob := w.node(a), w.node(b)
		bob.announce(r1)
		alice.announce(r2)
		alice.add(bob.Link())
		alice.write(bob, "1")
		w.pass(time.Minute)
		bob.requireGot("1")
		require.NoError(t, alice.SetPolicy(w.Context(), client.MailboxPolicy{Allow: []spec.ServerName{b.ServerName}}))
		last := linked(w, alice.Link())
		alice.close()
		for _, damage := range []string{"{", `{"record":{}}`, `{"record":5,"allow":5,"relays":5}`} {
			var changes []store.Note
			for _, key := range []string{"announced", "node/policy", "record/damaged.example", "peer/damaged.example", "seen/x", "outbox/x/y"} {
				changes = append(changes, store.Note{Key: key, Value: []byte(damage)})
			}
			require.NoError(t, alice.mail.SetNotes(w.Context(), changes))
			alice.open()
			require.Empty(t, alice.Link(), damage)
			require.Equal(t, []spec.ServerName{r1}, alice.Relays(b.ServerName))
			alice.close()
			aside, err := alice.mail.Notes(w.Context(), "damaged/announced", "", 10)
			require.NoError(t, err)
			require.Equal(t, []store.Note{{Key: "damaged/announced", Value: []byte(damage)}}, aside)
			require.Contains(t, alice.log.String(), "record/damaged.example")
			require.Contains(t, alice.log.String(), "peer/damaged.example")
		}
		alice.open()
		alice.announce(r2) // though it no longer knows its number
		w.pass(3 * time.Hour)
		next := linked(w, alice.Link())
		kept, err := caller(w.T, w.net, b).RelayRecord(w.Context(), r2, a.ServerName)
		require.NoError(t, err)
		require.Equal(t, next, kept)
		require.True(t, last.Precedes(&next) || last.Seq == next.Seq)
		alice.write(bob, "2")
		w.pass(time.Minute)
		bob.requireGot("2")
	})
}

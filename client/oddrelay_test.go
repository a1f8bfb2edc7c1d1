package client_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A relay that answers, but fails when it is asked to hold an answer, is left
// alone for longer and longer.
func TestReceiverRelayFailsToWait(t *testing.T) {
	inInbox(t, func(b *inbox) {
		require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
		s := b.scripted(r1, &scripted{odd: func(w http.ResponseWriter, a *ask) bool {
			if a.Timeout > 0 {
				w.WriteHeader(500)
			}
			return a.Timeout > 0
		}})
		stop := b.run()
		time.Sleep(time.Hour)
		t.Log(len(s.limits()))
		require.Less(t, len(s.limits()), 300)
		stop()
	})
}

// A relay that answers at once with an entry that was dealt with isn't asked again at
// once.
func TestReceiverRelayRepeatsWhenWaiting(t *testing.T) {
	for _, empty := range []bool{true, false} {
		inInbox(t, func(b *inbox) {
			require.NoError(t, b.peers.RemoveRelays(b.Context(), nodeB, r2, r3))
			s := b.scripted(r1, &scripted{odd: func(w http.ResponseWriter, a *ask) bool {
				if a.Timeout > 0 || a.acknowledge == 0 && (a.number == 1 || !empty) {
					_, _ = w.Write([]byte(`{"transaction":{"origin":"a","pdus":[{"n":1}]},"entry_id":1,"entries_queued":true,"more":[]}`))
					return true
				}
				return false
			}})
			stop := b.run()
			time.Sleep(time.Minute)
			t.Log(len(s.limits()))
			require.Less(t, len(s.limits()), 100)
			stop()
		})
	}
}

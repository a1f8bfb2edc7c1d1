package client_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/wire"
)

// A request about a mailbox whose answer got lost may be sent again, to the relay's address or
// by the caller: it has worked then, though it works once.
func TestRequestsThatAreRepeated(t *testing.T) {
	inNodeWorld(t, nil, func(w *nodeWorld) {
		w.ownersRelay(r1, nil)
		w.setRelays(a.ServerName, r1)
		time.Sleep(time.Minute)
		caller := w.asA()
		state, err := caller.Mailbox(w.Context(), r1)
		require.NoError(t, err)
		p := wire.MailboxPolicy{Mailbox: state.Mailbox, Seq: 7, Allow: []spec.ServerName{"d", "c"}, Strangers: &wire.Strangers{Entries: 5, Bytes: 5000}}
		for range 2 {
			require.NoError(t, caller.SetMailboxPolicy(w.Context(), r1, p))
		}
		other := p
		other.Allow = []spec.ServerName{"c"}
		requireStatus(t, http.StatusConflict, caller.SetMailboxPolicy(w.Context(), r1, other))
		for range 2 {
			require.NoError(t, caller.Leave(w.Context(), r1, wire.Leaving{Mailbox: state.Mailbox}))
		}
		requireStatus(t, http.StatusForbidden, caller.Return(w.Context(), r1, wire.Return{After: "another"}))
		for range 2 {
			require.NoError(t, caller.Return(w.Context(), r1, wire.Return{After: state.Mailbox}))
		}
	})
}

// TestAnswerLostByName: a mailbox that was left takes mail again though the first answer got
// lost and the request went to the relay's address once more.
func TestAnswerLostByName(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		owned := &nodeWorld{T: t, net: w.net}
		owned.ownersRelay(r1, nil)
		w.net.Set("place.example:8448", w.net.Host(r1))
		w.places = map[string]spec.ServerName{addressOfR1: "place.example:8448"}
		bob := w.node(b)
		require.NoError(t, bob.AnnounceAt(w.Context(), wire.RecordRelay{Name: r1, At: []string{addressOfR1}}))
		require.NoError(t, bob.Leave(w.Context(), r1, false))
		loses := w.net.Host(r1)
		var lose atomic.Bool
		var lost atomic.Int64
		bob.divert = func(r *http.Request) *http.Request {
			lose.Store(r.Method == http.MethodPut)
			return r
		}
		loses.Lose = func() (request, answer bool) {
			if lose.Load() {
				lost.Add(1)
			}
			return false, lose.Load()
		}
		w.net.Set(r1, loses)
		require.NoError(t, bob.Return(w.Context(), r1))
		require.EqualValues(t, 1, lost.Load())
		state, err := bob.Mailbox(w.Context(), r1)
		require.NoError(t, err)
		require.Equal(t, wire.StateOpen, state.State)
	})
}

// TestNameWorksAgain: a relay's name that has worked again is tried soon after its next failure,
// however long it had failed before.
func TestNameWorksAgain(t *testing.T) {
	inRecordWorld(t, func(w *recordWorld) {
		w.relays(r1)
		var byName atomic.Int64
		w.net.Set("place.example:8448", w.net.Host(r1))
		w.places = map[string]spec.ServerName{addressOfR1: "place.example:8448"}
		bob := w.node(b)
		bob.divert = func(r *http.Request) *http.Request {
			if r.URL.Host == string(r1) {
				byName.Add(1)
			}
			return r
		}
		require.NoError(t, bob.AnnounceAt(w.Context(), wire.RecordRelay{Name: r1, At: []string{addressOfR1}}))
		ask := func(times int) (asked int64) {
			byName.Store(0)
			for range times {
				time.Sleep(2 * time.Minute)
				bob.Online()
				time.Sleep(time.Second)
			}
			return byName.Load()
		}
		w.net.SetOffline(r1, true)
		require.Less(t, ask(200), int64(20), "a name that fails is tried less and less")
		ended, cancel := context.WithCancel(w.Context())
		cancel()
		_, err := bob.Mailbox(ended, r1) // while the name isn't tried
		require.ErrorIs(t, err, context.Canceled)
		w.net.SetOffline(r1, false)
		require.Positive(t, ask(60))
		w.net.SetOffline(r1, true)
		require.Positive(t, ask(1))
		require.Positive(t, ask(8))
	})
}

package client_test

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// The sender's relay hands mail to its destination, in order, and is rid of it.
func TestPassOnDirectly(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		w.b(true)
		r := w.passer("r1", everything)
		w.leave("123", r)
		time.Sleep(time.Second)
		require.Equal(t, []string{"handed 1", "handed 2", "handed 3"}, w.got())
		require.Zero(t, r.left())
		require.Equal(t, 3, w.net.Asked(nodeB))
		require.Error(t, r.outbox.Enqueue(w.Context(), transaction(t, "4")), "only the relay takes mail in")
	})
}

// While the destination is away it is tried with back-off.
func TestPassOnBacksOff(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		r := w.passer("r1", everything)
		w.leave("123", r)
		time.Sleep(24 * time.Hour)
		require.Less(t, w.net.Asked(nodeB), 250)
		require.Greater(t, w.net.Asked(nodeB), 90)
		require.Equal(t, 3, r.left())
		w.b(true)
		time.Sleep(client.DefaultMostBackoff)
		require.Equal(t, []string{"handed 1", "handed 2", "handed 3"}, w.got())
		require.Zero(t, r.left())
	})
}

// When it asks for its mail it is online, and gets it at once.
func TestPassOnIsWoken(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		r := w.passer("r1", everything)
		w.leave("123", r)
		time.Sleep(24 * time.Hour)
		w.b(true)
		caller, err := client.NewCaller(client.CallerConfig{Identity: b.SigningIdentity, Transport: w.net})
		require.NoError(t, err)
		answer, err := caller.Next(w.Context(), r.name, 0)
		require.NoError(t, err)
		require.True(t, answer.EntriesQueued)
		time.Sleep(time.Second)
		require.Equal(t, []string{"handed 1", "handed 2", "handed 3"}, w.got())
		require.Zero(t, r.left())
	})
	inPassWorld(t, func(w *passWorld) { // handed over and fetched at the same time, once
		r := w.passer("r1", everything)
		w.leave("123456789", r)
		time.Sleep(24 * time.Hour)
		w.b(true)
		w.refuse = func(gomatrixserverlib.TransactionID) error { time.Sleep(50 * time.Millisecond); return nil }
		w.sync(r)
		time.Sleep(time.Second)
		require.Len(t, w.got(), 9)
		require.Zero(t, r.left())
	})
}

// To the destination's own relay, which hands it out with the proof.
func TestPassOnToRelay(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		own, theirs := w.passer("r1", everything), w.passer("r2", nil)
		own.knows(own, theirs)
		w.leave("12", own)
		time.Sleep(time.Second)
		require.Equal(t, 2, theirs.left())
		require.EqualValues(t, 2, own.puts.Load(), "it leaves nothing with itself")
		require.Equal(t, 2, w.sync(theirs)[0].Handled)
		require.Equal(t, []string{"fetched 1", "fetched 2"}, w.got())

		w.b(true)
		w.leave("3", own)
		time.Sleep(client.DefaultMostBackoff)
		require.Equal(t, []string{"handed 3"}, w.got(), "fetched mail isn't handled again")
		require.Zero(t, own.left())
		w.sync(own, theirs)
		require.Empty(t, w.got())
		require.Zero(t, theirs.left())
	})
}

// Mail that was left at both anyway is there once.
func TestPassOnToRelayThatHasIt(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		own, theirs := w.passer("r1", everything), w.passer("r2", everything)
		own.knows(own, theirs)
		theirs.knows(own, theirs)
		w.leave("12", own, theirs)
		time.Sleep(time.Second)
		require.Equal(t, 2, own.left())
		require.Equal(t, 2, theirs.left())
		w.sync(theirs)
		w.sync(own)
		require.Equal(t, []string{"fetched 1", "fetched 2"}, w.got())
		require.Zero(t, own.left()+theirs.left())
	})
}

// Mail that was passed on goes to its destination and to no other relay.
func TestPassOnDoesNotGoRound(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		relays := []*passer{w.passer("r1", everything), w.passer("r2", everything), w.passer("r3", everything)}
		for _, r := range relays {
			r.knows(relays...)
		}
		w.leave("1", relays[0])
		time.Sleep(24 * time.Hour)
		for _, r := range relays {
			require.EqualValues(t, 1, r.puts.Load())
			require.Equal(t, 1, r.left())
		}
		relays[0].stop() // any of them will do
		w.b(true)
		time.Sleep(client.DefaultMostBackoff)
		require.Equal(t, []string{"handed 1"}, w.got())
		require.Zero(t, relays[1].left()+relays[2].left())
	})
}

// Servers that don't know proofs take forwarded mail for something else: the
// mail stays, and they aren't filled with copies.
func TestPassOnToDeployed(t *testing.T) {
	for _, says := range []string{`null`, `{}`, `{"proven":false}`, `7`, ``} {
		inPassWorld(t, func(w *passWorld) {
			own, theirs := w.passer("r1", everything), w.passer("r2", nil)
			own.knows(theirs)
			deployed := relaytest.Host{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, says) })}
			w.net.Set(theirs.name, deployed)
			w.net.Set(nodeB, deployed)
			w.leave("123", own)
			for range 24 {
				time.Sleep(time.Hour)
				own.outbox.Seen(nodeB)
			}
			require.Equal(t, 3, own.left())
			require.LessOrEqual(t, w.net.Asked(theirs.name), 3)
			require.LessOrEqual(t, w.net.Asked(nodeB), 3)
			w.sync(own)
			require.Equal(t, []string{"fetched 1", "fetched 2", "fetched 3"}, w.got())
			require.Zero(t, own.left())

			// One day they will have learnt it.
			w.leave("4", own)
			w.b(true)
			time.Sleep(25 * time.Hour)
			require.Equal(t, []string{"handed 4"}, w.got())
		})
	}
}

// Mail without proof stays until it is fetched, and so does the mail behind it: the
// destination gets its mail in order. Other relays get the rest.
func TestPassOnWithoutProof(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		own, theirs := w.passer("r1", everything), w.passer("r2", nil)
		own.knows(theirs)
		body := json.RawMessage(`{"origin":"` + string(a.ServerName) + `","pdus":[{}]}`)
		content, err := wire.ReadContent(body)
		require.NoError(t, err)
		_, err = own.kept.Put(w.Context(), store.Mail{Destination: nodeB, Origin: a.ServerName, TransactionID: "0", Digest: content.Digest, Body: body}, store.Limits{})
		require.NoError(t, err)
		own.outbox.Stored(nodeB)
		w.leave("12", own)
		time.Sleep(24 * time.Hour)
		w.b(true)
		own.outbox.Seen(nodeB)
		time.Sleep(time.Hour)
		require.Empty(t, w.got())
		require.Equal(t, 3, own.left())
		got := w.sync(own)[0]
		require.Equal(t, 1, got.Rejected, "b wants proof")
		require.Equal(t, 2, got.Handled)
		require.Zero(t, own.left())
		w.got()
		w.leave("3", own)
		time.Sleep(client.DefaultMostBackoff)
		require.Equal(t, []string{"handed 3"}, w.got(), "nothing is in the way any more")
	})
}

// A destination that refuses something, or fails, can still fetch it.
func TestPassOnIsRefused(t *testing.T) {
	for name, refusal := range map[string]error{
		"400": wire.BadRequest(spec.ErrorBadJSON, "no"), "413": &wire.Error{Status: 413}, "403": wire.Forbidden("no"),
		"429": &wire.Error{Status: 429, RetryAfter: time.Hour}, "500": errors.New("no"),
	} {
		t.Run(name, func(t *testing.T) {
			inPassWorld(t, func(w *passWorld) {
				own, theirs := w.passer("r1", everything), w.passer("r2", nil)
				own.knows(theirs)
				w.b(true)
				w.refuse = func(id gomatrixserverlib.TransactionID) error {
					if id == "2" {
						return refusal
					}
					return nil
				}
				w.leave("123", own)
				time.Sleep(24 * time.Hour)
				require.Equal(t, []string{"handed 1"}, w.got())
				require.Equal(t, 2, own.left())
				require.Less(t, w.net.Asked(nodeB), 250)
				w.refuse = nil
				w.sync(own)
				got := strings.Join(w.got(), ", ")
				require.Regexp(t, "^(fetched|handed) 2, (fetched|handed) 3$", got)
				require.Zero(t, own.left())
			})
		})
	}
}

// A relay that restarts goes on with its mail, and remembers which mail other
// relays have.
func TestPassOnAfterRestart(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		own, theirs := w.passer("r1", everything), w.passer("r2", nil)
		own.knows(theirs)
		w.leave("12", own)
		time.Sleep(time.Hour)
		own.stop()
		time.Sleep(time.Hour)
		own.start()
		w.leave("3", own)
		time.Sleep(time.Hour)
		require.EqualValues(t, 3, theirs.puts.Load(), "each once")
		own.stop()
		w.b(true)
		own.start()
		time.Sleep(client.DefaultMostBackoff)
		require.Equal(t, []string{"handed 1", "handed 2", "handed 3"}, w.got())
		require.Zero(t, own.left())
		require.Equal(t, 3, w.sync(theirs)[0].Copies)
	})
}

// A server that isn't to be served so has a mailbox as always; and so has the relay
// itself, which would else take its own copy for a delivery.
func TestPassOnIsChosen(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		w.b(true)
		r := w.passer("r1", func(to spec.ServerName) bool { return to != nodeB })
		w.leave("1", r)
		caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Transport: w.net})
		require.NoError(t, err)
		toRelay := transaction(t, "2")
		toRelay.Destination = r.name
		require.NoError(t, caller.Send(w.Context(), r.name, toRelay))
		r.stop()
		r.start()
		time.Sleep(24 * time.Hour)
		require.Zero(t, w.net.Asked(nodeB))
		require.Equal(t, 2, r.left())
		require.Equal(t, 1, w.sync(r)[0].Handled)
		own, err := client.NewCaller(client.CallerConfig{Identity: r.node.SigningIdentity, Transport: w.net})
		require.NoError(t, err)
		answer, err := own.Next(w.Context(), r.name, 0)
		require.NoError(t, err)
		require.EqualValues(t, "2", answer.TransactionID)
	})
}

// The origin's own attempts and the relay's come to one.
func TestPassOnBesideOrigin(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		w.b(true)
		r := w.passer("r1", everything)
		w.leave("1", r)
		time.Sleep(time.Second)
		caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Transport: w.net})
		require.NoError(t, err)
		again, err := client.NewTransaction(a.Transaction(nodeB, "1", 1, 100))
		require.NoError(t, err)
		require.NoError(t, caller.Send(w.Context(), nodeB, again), "b takes mail for itself")
		require.Equal(t, []string{"handed 1"}, w.got())
	})
}

// A node that only fetches doesn't take mail that is handed over, or it would lie in
// its own mailbox, where it never looks.
func TestPassOnToWhoOnlyFetches(t *testing.T) {
	inPassWorld(t, func(w *passWorld) {
		kept := memory.New(memory.Options{})
		server, err := relay.New(relay.Config{ServerName: nodeB, Store: kept, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		w.net.Set(nodeB, relaytest.Host{Handler: server})
		own, theirs := w.passer("r1", everything), w.passer("r2", everything)
		own.knows(theirs)
		w.leave("12", own)
		time.Sleep(time.Hour)
		require.Equal(t, 2, own.left())
		require.Equal(t, 2, theirs.left())
		usage, err := kept.Usage(w.Context(), "")
		require.NoError(t, err)
		require.Zero(t, usage.Entries)
		w.sync(own)
		require.Equal(t, []string{"fetched 1", "fetched 2"}, w.got())
	})
}

package client_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// A recorder is a relay, or the destination, that keeps the IDs that it took, in
// order and each once. Answer may give another answer, and then nothing is kept.
type recorder struct {
	answer func(id string) *wire.Error
	lies   bool // it says 200 and keeps nothing

	mu      sync.Mutex
	took    []string
	refused map[string]bool // for good
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := idOf(request)
	if r.answer != nil {
		if e := r.answer(id); e != nil {
			if r.refused == nil {
				r.refused = make(map[string]bool)
			}
			r.refused[id] = r.refused[id] || e.Code == spec.ErrorBadJSON || e.Code == wire.ErrorTooLarge
			if e.Code == "" { // a proxy's page
				w.WriteHeader(e.Status)
				_, _ = w.Write([]byte("<html>"))
				return
			}
			e.Write(w)
			return
		}
	}
	if !r.lies && !slices.Contains(r.took, id) {
		r.took = append(r.took, id)
	}
	_, _ = w.Write([]byte(`{}`))
}

// idOf returns the transaction ID of a PUT.
func idOf(r *http.Request) string {
	uri, _ := wire.SignedURI(r)
	if route, err := wire.ParseURI(uri); err == nil {
		return string(route.TransactionID)
	}
	return uri[len(wire.Prefix+"send/"):]
}

func (r *recorder) has() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.took)
}

// dealtWith reports whether it has a transaction or has refused it for good.
func (r *recorder) dealtWith(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.took, id) || r.refused[id]
}

func (r *recorder) host() relaytest.Host {
	return relaytest.Host{Handler: r, Latency: 10 * time.Millisecond}
}

func numbers(from, to int) (ids []string) {
	for i := from; i <= to; i++ {
		ids = append(ids, fmt.Sprintf("%03d", i))
	}
	return ids
}

// Mail that one relay refuses, or takes and doesn't keep, another gets that can't be
// reached for a minute; also after a restart.
func TestOutboxEachRelayGetsAll(t *testing.T) {
	refuse := func(string) *wire.Error { return wire.BadRequest(spec.ErrorBadJSON, "no") }
	for name, other := range map[string]*recorder{"refuses": {answer: refuse}, "lies": {lies: true}, "takes": {}} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(name, restart), func(t *testing.T) {
				inOutWorld(t, func(c *client.OutboxConfig) { c.KeepRelayed = 5 }, func(o *outWorld) {
					honest := &recorder{}
					o.relays(other.host(), relaytest.Host{}, relaytest.Host{})
					require.NoError(t, o.peers.RemoveRelays(o.Context(), b.ServerName, r3))
					o.enqueue(numbers(1, 20)...)
					time.Sleep(time.Minute)
					require.Equal(t, 20, o.queued(b.ServerName), "nothing is dropped that a relay could get")
					if restart {
						require.NoError(t, o.outbox.Close())
						o.open()
					}
					o.net.Set(r2, honest.host())
					o.enqueue("021")
					time.Sleep(time.Hour)
					require.Equal(t, numbers(1, 21), honest.has())
					require.Equal(t, 5, o.queued(b.ServerName))
				})
			})
		}
	}
}

// Each event says at how many relays a transaction is, and of how many.
func TestOutboxEventsCount(t *testing.T) {
	var mu sync.Mutex
	var told []string
	tell := func(e client.Event) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprintf("%s at %d of %d", e.Result, e.At, e.Of))
	}
	all := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(told)
	}
	inOutWorld(t, func(c *client.OutboxConfig) { c.Notify = tell; c.KeepRelayed = -1 }, func(o *outWorld) {
		o.relays(takes, relaytest.Host{}, tooLarge)
		o.enqueue("1")
		time.Sleep(time.Minute)
		require.Equal(t, []string{"relayed at 1 of 3"}, all())
		o.net.Set(r2, takes)
		time.Sleep(time.Hour)
		require.Equal(t, []string{"relayed at 1 of 3", "relayed at 2 of 3", "dropped at 2 of 3"}, all())
	})
}

// A relay that is added later gets all that is kept.
func TestOutboxAddedRelay(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		require.NoError(t, o.peers.RemoveRelays(o.Context(), b.ServerName, r2, r3))
		o.net.Set(r1, takes)
		o.enqueue(numbers(1, 50)...)
		time.Sleep(time.Minute)
		added := &recorder{}
		o.net.Set(r2, added.host())
		require.NoError(t, o.peers.AddRelays(o.Context(), b.ServerName, r2))
		time.Sleep(time.Second)
		require.Equal(t, numbers(1, 50), added.has())
		require.Equal(t, 50, o.net.Asked(r1), "the other isn't given it again")
	})
}

// A relay behind a proxy that refuses a large transaction with a page of its own
// gets those behind it at once, and that one when the proxy lets it pass.
func TestOutboxProxyRefusesOne(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		var page atomic.Bool
		page.Store(true)
		relay := &recorder{answer: func(id string) *wire.Error {
			if page.Load() && id == "002" {
				return &wire.Error{Status: 413}
			}
			return nil
		}}
		o.relays(relay.host(), relaytest.Host{}, relaytest.Host{})
		require.NoError(t, o.peers.RemoveRelays(o.Context(), b.ServerName, r2, r3))
		o.enqueue("001", "002", "003")
		time.Sleep(time.Minute)
		require.Equal(t, []string{"001", "003"}, relay.has())
		for i := range 10 {
			o.enqueue(fmt.Sprintf("1%02d", i))
			time.Sleep(time.Second)
			require.Len(t, relay.has(), i+3, "new mail needn't wait")
		}
		time.Sleep(24 * time.Hour)
		require.Less(t, o.net.Asked(r1), 150)
		require.Equal(t, 13, o.queued(b.ServerName))

		require.NoError(t, o.outbox.Close())
		o.open()
		page.Store(false)
		time.Sleep(time.Hour)
		require.Contains(t, relay.has(), "002")
	})
}

// A page of a proxy at the destination itself ends nothing: relays get it.
func TestOutboxPageEndsNothing(t *testing.T) {
	for name, host := range map[string]relaytest.Host{
		"413": proxy(413, "<html>", ""), "400": proxy(400, "<html>", ""), "302": proxy(302, "", ""), "202": answers(202, `{}`),
		"login page": proxy(200, "<html>", ""), "a list": answers(200, `[]`), "511": proxy(511, "<html>", ""),
		"M_UNAUTHORIZED": answers(400, `{"errcode":"M_UNAUTHORIZED","error":""}`), "M_UNKNOWN": answers(400, `{"errcode":"M_UNKNOWN","error":""}`),
		"M_FORBIDDEN": answers(400, `{"errcode":"M_FORBIDDEN","error":""}`), "413 M_UNKNOWN": answers(413, `{"errcode":"M_UNKNOWN","error":""}`),
	} {
		t.Run(name, func(t *testing.T) {
			inOutWorld(t, nil, func(o *outWorld) {
				o.relays(takes, host, host)
				o.net.Set(b.ServerName, host)
				o.enqueue("1", "2")
				time.Sleep(time.Hour)
				require.Equal(t, []string{"1 relayed", "2 relayed"}, o.told())
				require.Equal(t, 2, o.queued(b.ServerName))
				o.net.Set(b.ServerName, takes)
				time.Sleep(time.Hour)
				require.Equal(t, []string{"1 delivered", "2 delivered"}, o.told())
			})
		})
	}
}

// SendToRelays says so when no relay has it: while the only one is left alone,
// and when there is none.
func TestSendToRelaysNobodyHasIt(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		require.NoError(t, w.peers.RemoveRelays(w.Context(), b.ServerName, r2, r3))
		for range 2 {
			attempts, err := w.sender.SendToRelays(w.Context(), transaction(t, "1"))
			require.Len(t, attempts, 1)
			e := refusal(t, err)
			require.Positive(t, e.RetryAfter)
			require.False(t, e.Refused || e.RelaysRefused)
			require.ErrorContains(t, err, "r1")
		}
		require.Equal(t, 1, w.net.Asked(r1), "the second time it was left alone")
		require.NoError(t, w.peers.RemoveRelays(w.Context(), b.ServerName, r1))
		_, err := w.sender.SendToRelays(w.Context(), transaction(t, "1"))
		require.Zero(t, refusal(t, err).RetryAfter)

		require.NoError(t, w.peers.AddRelays(w.Context(), b.ServerName, r2))
		passedOn := transaction(t, "1")
		passedOn.Proof = &wire.Proof{Relay: "another"}
		_, err = w.sender.SendToRelays(w.Context(), passedOn)
		_ = refusal(t, err) // it isn't for relays
		w.net.Set(r2, takes)
		_, err = w.sender.SendToRelays(w.Context(), transaction(t, "1"))
		require.NoError(t, err)
	})
}

// signsEscapedKeys reports whether this version of gomatrixserverlib signs escaped keys.
func signsEscapedKeys(t *testing.T) bool {
	signed, err := gomatrixserverlib.SignJSON(string(a.ServerName), a.KeyID, a.PrivateKey, []byte(`{"a\"b":1}`))
	return err == nil && json.Valid(signed)
}

// A transaction that can't be signed, or made a request of, isn't taken, and a Sender
// says so without thinking worse of anybody.
func TestUnsendable(t *testing.T) {
	bodies := []string{`{"pdus":[`, `{"pdus":[nul]}`}
	if !signsEscapedKeys(t) {
		bodies = append(bodies,
			`{"pdus":[{"a\"b":1}]}`, `{"pdus":[{"content":{"\\":{}}}]}`, `{"pdus":[],"edus":[{"edu_type":"x","content":{"a\nb":1}}]}`)
	}
	inOutWorld(t, nil, func(o *outWorld) {
		o.relays(takes, takes, takes)
		o.net.Set(b.ServerName, takes)
		for _, body := range bodies {
			bad := client.Transaction{ID: "bad", Destination: b.ServerName, Body: []byte(body)}
			err := o.outbox.Enqueue(o.Context(), bad)
			var e *wire.Error
			require.ErrorAs(t, err, &e, body)
			require.Equal(t, 400, e.Status)

			_, err = o.sender.Send(o.Context(), bad)
			require.ErrorIs(t, err, client.ErrUnsendable)
			require.True(t, refusal(t, err).Refused)
			attempts, err := o.sender.SendToRelays(o.Context(), bad)
			require.ErrorIs(t, err, client.ErrUnsendable)
			require.True(t, refusal(t, err).Refused)
			require.Len(t, attempts, 3)
		}
		require.False(t, o.peers.Offline(b.ServerName))
		o.enqueue("1")
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 delivered"}, o.told())
		require.Equal(t, 1, o.net.Asked(b.ServerName))
		attempts, err := o.sender.SendToRelays(o.Context(), transaction(t, "2"))
		require.NoError(t, err)
		require.NotContains(t, []client.Verdict{attempts[0].Verdict, attempts[1].Verdict, attempts[2].Verdict}, client.Untried)
	})
}

// Odd transaction IDs hold up nothing either: they are sent, or not taken.
func TestOddTransactionIDs(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		took := &recorder{}
		o.net.Set(b.ServerName, took.host())
		sent := 0
		for _, id := range []string{"a/b", "a?b#c", "%zz", "a b", "\x00", "ä", "\xff", "..", ".", "a'b*c", "a\"b", "a\\b", ";,:@&=+$"} {
			made := transaction(t, "1")
			made.ID = gomatrixserverlib.TransactionID(id)
			if o.outbox.Enqueue(o.Context(), made) == nil {
				sent++
			}
		}
		require.Greater(t, sent, 5)
		time.Sleep(time.Hour)
		require.Zero(t, o.queued(b.ServerName))
		require.Len(t, o.told(), sent)
	})
}

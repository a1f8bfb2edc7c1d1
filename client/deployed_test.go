package client_test

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A deployedRelay answers as Dendrite's does, flaws included: null to a PUT and
// while it is off, a retry stored once more, all of pdus and edus
// decoded and encoded again and the time stamp dropped, 500 for the caller's
// mistakes, no look at who asks.
type deployedRelay struct {
	name spec.ServerName // default: relayName

	mu     sync.Mutex
	off    bool // relaying is
	broken bool // its database is
	queue  []gomatrixserverlib.Transaction
	first  int64 // the entry ID of queue[0]
}

func (d *deployedRelay) change(how func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	how()
}

func (d *deployedRelay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	signed, answer := fclient.VerifyHTTPRequest(r, time.Now(), cmp.Or(d.name, relayName), nil, wire.HexKeys{})
	d.mu.Lock()
	defer d.mu.Unlock()
	status, content := answer.Code, answer.JSON // such as {"message":"Invalid request signature"}
	switch {
	case signed == nil:
	case d.off:
		status, content = http.StatusNotFound, nil
	case r.Method == http.MethodPut:
		status, content = d.put(signed)
	default:
		status, content = d.get(signed.Content())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(content) // nil is null
}

func (d *deployedRelay) put(signed *fclient.FederationRequest) (int, any) {
	var events fclient.RelayEvents
	if json.Unmarshal(signed.Content(), &events) != nil {
		return http.StatusBadRequest, spec.NotJSON("The request body could not be decoded into valid JSON.")
	}
	if d.broken {
		return http.StatusInternalServerError, spec.BadJSON("could not store the transaction for forwarding")
	}
	d.queue = append(d.queue, gomatrixserverlib.Transaction{Origin: signed.Origin(), PDUs: events.PDUs, EDUs: events.EDUs})
	return http.StatusOK, nil
}

func (d *deployedRelay) get(content []byte) (int, any) {
	var previous fclient.RelayEntry
	if json.Unmarshal(content, &previous) != nil || previous.EntryID < 0 {
		return http.StatusInternalServerError, spec.BadJSON("invalid json provided")
	}
	if d.broken {
		return http.StatusInternalServerError, nil
	}
	if len(d.queue) > 0 && previous.EntryID == d.first {
		d.queue, d.first = d.queue[1:], d.first+1
	}
	var next fclient.RespGetRelayTransaction
	if len(d.queue) > 0 {
		next = fclient.RespGetRelayTransaction{Transaction: d.queue[0], EntryID: d.first, EntriesQueued: true}
	}
	return http.StatusOK, next
}

// deployedSync fetches as deployed nodes do, and returns the mail that they process.
func deployedSync(t *testing.T, node *relaytest.Node, network http.RoundTripper, relay spec.ServerName) (got []gomatrixserverlib.Transaction) {
	t.Helper()
	federation := node.Federation(network)
	for last := (fclient.RelayEntry{}); ; {
		answer, err := federation.P2PGetTransactionFromRelay(t.Context(), relaytest.User(node.ServerName), last, relay)
		require.NoError(t, err)
		if !answer.EntriesQueued {
			require.Empty(t, answer.Transaction.PDUs, "they process this as well")
			return got
		}
		got = append(got, answer.Transaction)
		last.EntryID = answer.EntryID
	}
}

// deployedNode takes mail that is sent directly, and returns it.
func deployedNode() (host relaytest.Host, took func() []string) {
	var mu sync.Mutex
	var ids []string
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /_matrix/federation/v1/send/{txnID}", func(w http.ResponseWriter, r *http.Request) {
		signed, answer := fclient.VerifyHTTPRequest(r, time.Now(), b.ServerName, nil, wire.HexKeys{})
		if signed == nil {
			w.WriteHeader(answer.Code)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, r.PathValue("txnID"))
		_, _ = io.WriteString(w, `{"pdus":{"$a":{"error":"not allowed"}}}`)
	})
	return relaytest.Host{Handler: mux}, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return ids
	}
}

// The answers of deployed relays, and of proxies before them, to a PUT.
func TestSenderDeployedAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		host       relaytest.Host
		want       client.Verdict
		retryAfter time.Duration // if the caller has a Transport
	}{
		"stored":                     {relaytest.Host{Handler: &deployedRelay{name: r1}}, client.Delivered, 0},
		"off":                        {relaytest.Host{Handler: &deployedRelay{name: r1, off: true}}, client.NoUse, 0},
		"its database fails":         {relaytest.Host{Handler: &deployedRelay{name: r1, broken: true}}, client.Later, 0},
		"it doesn't like the key":    {answers(401, `{"message":"Invalid request signature"}`), client.NoUse, 0},
		"it panics":                  {answers(500, `{"message":"Internal Server Error"}`), client.Later, 0},
		"it isn't a relay":           {answers(404, "404 page not found\n"), client.NoUse, 0},
		"it knows no PUT":            {answers(405, ``), client.NoUse, 0},
		"it limits":                  {answers(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"","retry_after_ms":5000}`), client.Later, 5 * time.Second},
		"a proxy limits":             {proxy(429, "<html>", "30"), client.Later, 30 * time.Second},
		"a proxy without a relay":    {proxy(502, "<html><center>nginx</center></html>", ""), client.Later, 0},
		"a proxy says when":          {proxy(503, "upstream connect error", "120"), client.Later, 2 * time.Minute},
		"a proxy says when, by date": {proxy(503, "", "Sat, 01 Jan 2000 00:05:00 GMT"), client.Later, 5 * time.Minute},
		"a proxy that waited":        {proxy(504, "error code: 504", ""), client.Later, 0},
		"a proxy's own number":       {proxy(520, "error code: 520", ""), client.Later, 0},
		"too large for a proxy":      {proxy(413, "<html>", ""), client.Doubtful, client.DefaultMostBackoff},
		"a login page":               {proxy(302, "", ""), client.Unreachable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := relaytest.NewNetwork()
				network.Set(r1, c.host)
				for _, config := range []client.CallerConfig{
					{Identity: a.SigningIdentity, Transport: network},
					{Identity: a.SigningIdentity, Federation: a.Federation(network)},
					{Identity: a.SigningIdentity, Federation: newStub(a.Federation(network))},
				} {
					attempt := leaveAt(t, config, r1)
					require.Equal(t, c.want, attempt.Verdict, "%v", attempt.Err)
					if _, ok := config.Federation.(stub); !ok { // which loses headers
						require.Equal(t, c.retryAfter, attempt.RetryAfter)
					}
				}
			})
		})
	}
}

// proxy gives answers that aren't JSON.
func proxy(status int, body, retryAfter string) relaytest.Host {
	return relaytest.Host{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})}
}

// leaveAt leaves a transaction for b at its one relay.
func leaveAt(t *testing.T, config client.CallerConfig, relay spec.ServerName) client.Attempt {
	t.Helper()
	caller, err := client.NewCaller(config)
	require.NoError(t, err)
	peers := client.NewPeers()
	require.NoError(t, peers.AddRelays(t.Context(), b.ServerName, relay))
	sender, err := client.NewSender(client.SenderConfig{Caller: caller, Peers: peers})
	require.NoError(t, err)
	defer func() { require.NoError(t, sender.Close()) }()
	attempts, err := sender.SendToRelays(t.Context(), transaction(t, "1"))
	require.Len(t, attempts, 1)
	if attempts[0].Verdict != client.Delivered {
		_ = refusal(t, err)
	}
	return attempts[0]
}

// An Outbox gets its mail through relays that are off, broken or behind a proxy
// that finds nobody, as soon as one of them works, and then to the node itself.
func TestOutboxDeployedRelays(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		off, broken := &deployedRelay{name: r1, first: 1, off: true}, &deployedRelay{name: r2, first: 1, broken: true}
		o.relays(relaytest.Host{Handler: off}, relaytest.Host{Handler: broken}, proxy(502, "<html>", ""))
		o.enqueue("1", "2", "3")
		time.Sleep(time.Hour)
		require.Empty(t, o.told())
		off.change(func() { off.off = false })
		time.Sleep(time.Hour)
		require.Equal(t, []string{"1 relayed", "2 relayed", "3 relayed"}, o.told())

		got := deployedSync(o.T, b, o.net, r1)
		require.Len(t, got, 3)
		for i, id := range []string{"1", "2", "3"} {
			requireContent(t, id, got[i])
		}
		node, took := deployedNode()
		o.net.Set(b.ServerName, node)
		o.outbox.Seen(b.ServerName)
		time.Sleep(time.Second)
		require.Equal(t, []string{"1 delivered", "2 delivered", "3 delivered"}, o.told())
		require.Equal(t, []string{"1", "2", "3"}, took(), "its results for single PDUs aren't for us")
	})
}

// requireContent checks the mail that arrived of transaction(id).
func requireContent(t *testing.T, id string, got gomatrixserverlib.Transaction) {
	t.Helper()
	require.Equal(t, a.ServerName, got.Origin)
	want := a.Transaction(b.ServerName, id, 2, 300)
	require.Len(t, got.PDUs, len(want.PDUs))
	for i := range want.PDUs {
		require.JSONEq(t, string(want.PDUs[i]), string(got.PDUs[i]))
	}
}

// A deployed node fetches from our relay the mail that our Outbox left there.
func TestDeployedNodeFetches(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		mail := memory.New(memory.Options{})
		server, err := relay.New(relay.Config{ServerName: r2, Store: mail, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer func() { require.NoError(t, server.Close()); require.NoError(t, mail.Close()) }()
		tries := 0
		loseFirstAnswer := func() (request, answer bool) { tries++; return false, tries == 1 }
		o.net.Set(r2, relaytest.Host{Handler: server, Lose: loseFirstAnswer})

		sent := time.Now()
		o.enqueue("1", "2", "3")
		time.Sleep(time.Minute)
		require.Equal(t, []string{"1 relayed", "2 relayed", "3 relayed"}, o.told())
		got := deployedSync(o.T, b, o.net, r2)
		require.Len(t, got, 3, "retried mail is there once")
		for i, id := range []string{"1", "2", "3"} {
			requireContent(t, id, got[i])
			require.Equal(t, spec.AsTimestamp(sent), got[i].OriginServerTS)
		}
		require.Empty(t, deployedSync(o.T, b, o.net, r2), "all was acknowledged")
	})
}

// A deployed relay stores a retry once more, and doesn't say that it is
// the same: it comes twice. A direct copy after that is dropped.
func TestRetryAtDeployedRelay(t *testing.T) {
	inOutWorld(t, nil, func(o *outWorld) {
		deployed, tries := &deployedRelay{name: r1, first: 1}, 0
		loseFirstAnswer := func() (request, answer bool) { tries++; return false, tries == 1 }
		o.net.Set(r1, relaytest.Host{Handler: deployed, Lose: loseFirstAnswer})
		o.enqueue("1", "2")
		time.Sleep(time.Minute)
		require.Equal(t, []string{"1 relayed", "2 relayed"}, o.told())
		require.Len(t, deployed.queue, 3)

		caller, err := client.NewCaller(client.CallerConfig{Identity: b.SigningIdentity, Transport: o.net})
		require.NoError(t, err)
		take := func(context.Context, client.Received) error { return nil }
		receiver, err := client.NewReceiver(client.ReceiverConfig{Caller: caller, Peers: o.peers, Handle: take})
		require.NoError(t, err)
		require.Equal(t, client.Drained{Relay: r1, Handled: 3}, receiver.Sync(o.Context())[0])
		first := transaction(t, "1")
		handled, err := receiver.Direct(o.Context(), a.ServerName, first.ID, first.Body, nil)
		require.NoError(t, err)
		require.False(t, handled)
	})
}

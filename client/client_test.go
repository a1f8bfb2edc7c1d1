package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

func init() { logrus.SetOutput(io.Discard) }

const relayName = "relay.example"

var a, b = relaytest.NewNode("a"), relaytest.NewNode("b")

// serve puts a relay on a network of its own.
func serve(t *testing.T, handler http.Handler) *relaytest.Network {
	web, err := relaytest.NewServer(handler)
	require.NoError(t, err)
	network := relaytest.NewNetwork()
	network.Set(relayName, relaytest.Host{Address: web.Address})
	t.Cleanup(func() {
		network.CloseIdleConnections()
		require.NoError(t, web.Close())
	})
	return network
}

// callers makes the node's caller in the three ways there are.
func callers(t *testing.T, node *relaytest.Node, network *relaytest.Network) map[string]*client.Caller {
	t.Helper()
	transport, err := client.NewCaller(client.CallerConfig{Identity: node.SigningIdentity, Transport: network, MaxAnswerBytes: 1 << 20})
	require.NoError(t, err)
	federation, err := client.NewCaller(client.CallerConfig{Identity: node.SigningIdentity, Federation: node.Federation(network)})
	require.NoError(t, err)
	stubbed, err := client.NewCaller(client.CallerConfig{Identity: node.SigningIdentity, Federation: newStub(node.Federation(network))})
	require.NoError(t, err)
	return map[string]*client.Caller{"transport": transport, "federation": federation, "stub": stubbed}
}

func transaction(t *testing.T, id string) client.Transaction {
	t.Helper()
	made, err := client.NewTransaction(a.Transaction(b.ServerName, id, 2, 300))
	require.NoError(t, err)
	return made
}

func TestWithOurRelay(t *testing.T) {
	kept := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{ServerName: relayName, Store: kept})
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Close()); require.NoError(t, kept.Close()) }()
	network := serve(t, server)
	for name, sender := range callers(t, a, network) {
		receiver := callers(t, b, network)[name]
		var sent []client.Transaction
		for i := range 3 {
			sent = append(sent, transaction(t, fmt.Sprint(name, i)))
			require.NoError(t, sender.Send(t.Context(), relayName, sent[i]))
			require.NoError(t, sender.Send(t.Context(), relayName, sent[i]), "again is harmless")
		}
		var got []wire.Answer
		handled, err := receiver.Drain(t.Context(), relayName, func(_ context.Context, answer wire.Answer) error {
			got = append(got, answer)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 3, handled)
		for i := range got {
			want, err := gomatrixserverlib.CanonicalJSON(sent[i].Body)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got[i].Transaction))
			decoded, err := got[i].Decode()
			require.NoError(t, err)
			require.Equal(t, a.ServerName, decoded.Origin)
		}
		handled, err = receiver.Drain(t.Context(), relayName, nil)
		require.NoError(t, err)
		require.Zero(t, handled)
	}
}

// Mail that the handler didn't take stays, and so does the mail behind it.
func TestDrainStops(t *testing.T) {
	kept := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{ServerName: relayName, Store: kept})
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Close()); require.NoError(t, kept.Close()) }()
	network := serve(t, server)
	sender, receiver := callers(t, a, network)["transport"], callers(t, b, network)["transport"]
	for i := range 5 {
		require.NoError(t, sender.Send(t.Context(), relayName, transaction(t, fmt.Sprint(i))))
	}
	no := errors.New("not now")
	calls := 0
	handled, err := receiver.Drain(t.Context(), relayName, func(context.Context, wire.Answer) error {
		if calls++; calls == 3 {
			return no
		}
		return nil
	})
	require.ErrorIs(t, err, no)
	require.Equal(t, 2, handled)
	usage, err := kept.Usage(t.Context(), b.ServerName)
	require.NoError(t, err)
	require.EqualValues(t, 3, usage.Entries)
}

func TestWithDeployedRelay(t *testing.T) {
	deployed := &deployedRelay{first: 1}
	network := serve(t, deployed)
	for name, sender := range callers(t, a, network) {
		for i := range 3 {
			require.NoError(t, sender.Send(t.Context(), relayName, transaction(t, fmt.Sprint(i))))
		}
		seen := 0
		handled, err := callers(t, b, network)[name].Drain(t.Context(), relayName, func(_ context.Context, answer wire.Answer) error {
			decoded, err := answer.Decode()
			require.NoError(t, err)
			require.Equal(t, a.ServerName, decoded.Origin)
			require.Len(t, decoded.PDUs, 2)
			seen++
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 3, handled)
		require.Equal(t, 3, seen)
		require.Empty(t, deployed.queue, "the last one was acknowledged too")
	}
}

func TestErrorAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   *wire.Error
	}{
		"forbidden": {403, `{"errcode":"M_FORBIDDEN","error":"no"}`, &wire.Error{Status: 403, Code: "M_FORBIDDEN", Message: "no"}},
		"later": {429, `{"errcode":"M_LIMIT_EXCEEDED","error":"","retry_after_ms":2500}`,
			&wire.Error{Status: 429, Code: "M_LIMIT_EXCEEDED", RetryAfter: 2500 * time.Millisecond}},
		"not Matrix": {502, `<html>bad gateway</html>`, &wire.Error{Status: 502}},
		"redirect":   {307, ``, &wire.Error{Status: 307}},
	} {
		network := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		for _, caller := range callers(t, a, network) {
			err := caller.Send(t.Context(), relayName, transaction(t, "1"))
			var e *wire.Error
			require.ErrorAs(t, err, &e, "%s: %v", name, err)
			require.Equal(t, c.want, e)
		}
	}
}

func TestOddAnswers(t *testing.T) {
	for name, body := range map[string]string{
		"empty": ``, "half": `{"transaction":{"pdus":[`, "list": `[]`, "no transaction": `{"entries_queued":true,"entry_id":3}`,
		"the same for ever": `{"entries_queued":true,"entry_id":3,"transaction":{"pdus":[]}}`,
		"too long":          `{"entries_queued":false,"x":"` + strings.Repeat("x", 2<<20) + `"}`,
	} {
		network := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		handled, err := callers(t, b, network)["transport"].Drain(t.Context(), relayName, func(context.Context, wire.Answer) error { return nil })
		require.Error(t, err, name)
		require.LessOrEqual(t, handled, 1)
	}
}

func TestUnreachable(t *testing.T) {
	network := relaytest.NewNetwork()
	for _, caller := range callers(t, a, network) {
		err := caller.Send(t.Context(), relayName, transaction(t, "1"))
		require.ErrorContains(t, err, "connection refused")
		_, err = caller.Next(t.Context(), relayName, 0)
		require.ErrorContains(t, err, "connection refused")
	}
	_, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity})
	require.Error(t, err)
	_, err = client.NewCaller(client.CallerConfig{Transport: network})
	require.Error(t, err)
}

func TestContextEnds(t *testing.T) {
	network := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then is it noticed that the client has gone
		<-r.Context().Done()
	}))
	for _, caller := range callers(t, a, network) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { _, err := caller.Next(ctx, relayName, 0); done <- err }()
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	}
}

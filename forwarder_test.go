package relay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

func TestFull(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxEntries, c.OriginShare = 4, 0.5 })
	for i := range 2 {
		require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, fmt.Sprint(i), 1, 100)))
	}
	status, body := r.put(r.a, "over", r.b.ServerName, `{"pdus":[]}`)
	requireError(t, http.StatusInsufficientStorage, "M_RESOURCE_LIMIT_EXCEEDED", status, body)
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "0", 1, 100)), "a copy needs no room")
	require.NoError(t, r.send(r.c, r.c.Transaction(r.b.ServerName, "0", 1, 100)), "another sender has its share")
	require.NoError(t, r.send(r.a, r.a.Transaction(r.c.ServerName, "0", 1, 100)), "another mailbox has room")
	require.Len(t, r.fetch(r.b), 3)
	status, _ = r.put(r.a, "over", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status)
}

// Mail that no mailbox could ever hold is refused for good.
func TestLargerThanTheLimits(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBytes = 1000 })
	status, body := r.put(r.a, "1", r.b.ServerName, string(largeContent(600)))
	requireError(t, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", status, body)
}

// Mail for the relay's own server is handed over, from its origin or another relay.
func TestDeliver(t *testing.T) {
	var got []relay.Delivery
	var fail error
	stored := 0
	r := newRig(t, func(c *relay.Config) {
		c.Deliver = func(_ context.Context, d relay.Delivery) error { got = append(got, d); return fail }
		c.Stored = func(spec.ServerName) { stored++ }
	})
	content := contentAt(r.a.ServerName, time.Now())
	status, body := r.put(r.a, "1", relayName, content)
	require.Equal(t, http.StatusOK, status, body)
	signed, proof := leaveAtFirst(t, r.a, "2", relayName, content)
	passOn := func() (int, string) { return r.put(first, "2", relayName, string(wire.WithProof(signed, proof))) }
	status, body = passOn()
	require.Equal(t, http.StatusOK, status, body)
	require.True(t, wire.IsProven([]byte(body)))
	require.Equal(t, []relay.Delivery{
		{Origin: r.a.ServerName, TransactionID: "1", Body: []byte(content)},
		{Origin: r.a.ServerName, TransactionID: "2", Body: signed},
	}, got)

	fail = errors.New("the database is away")
	status, body = passOn()
	requireError(t, http.StatusInternalServerError, "M_UNKNOWN", status, body)
	fail = fmt.Errorf("wrapped: %w", wire.Forbidden("not from you"))
	status, body = passOn()
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	require.Contains(t, body, "not from you")
	require.Len(t, got, 4)

	status, body = r.put(first, "2", relayName, string(signed))
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
	require.Len(t, got, 4, "not without a proof")

	fail = nil
	old, oldProof := leaveAtFirst(t, r.a, "3", relayName, contentAt(r.a.ServerName, time.UnixMilli(5)))
	status, body = r.put(first, "3", relayName, string(wire.WithProof(old, oldProof)))
	require.Equal(t, http.StatusOK, status, "its origin's clock was wrong, and it isn't kept here: "+body)
	require.Len(t, got, 5)

	require.Zero(t, stored)
	usage, err := r.store.Usage(t.Context(), "")
	require.NoError(t, err)
	require.Zero(t, usage.Entries)
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	require.Len(t, r.fetch(r.b), 1, "others' mail is stored")
}

func TestStoredAndAsked(t *testing.T) {
	var mu sync.Mutex
	var told []string
	tell := func(what string) func(spec.ServerName) {
		return func(server spec.ServerName) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, what+" "+string(server[:4]))
		}
	}
	r := newRig(t, func(c *relay.Config) { c.Stored, c.Asked = tell("stored"), tell("asked") })
	transaction := r.a.Transaction(r.b.ServerName, "1", 1, 100)
	require.NoError(t, r.send(r.a, transaction))
	require.NoError(t, r.send(r.a, transaction), "a copy")
	r.peek(r.b, 0)
	status, _ := r.ask(r.c, r.b.ServerName, `{"entry_id":0}`)
	require.Equal(t, http.StatusForbidden, status)
	status, _ = r.ask(r.b, r.b.ServerName, `{"entry_id":-1}`)
	require.Equal(t, http.StatusBadRequest, status)
	b := string(r.b.ServerName[:4])
	require.Equal(t, []string{"stored " + b, "asked " + b}, told)
}

// Mail that comes directly is handed out with its proof, however it was spelled.
func TestProofOfDirectMail(t *testing.T) {
	r := newRig(t, nil)
	uri := wire.SendRelayURI("1", relaytest.User(r.b.ServerName))
	const content, spelled = `{"origin_server_ts":1,"pdus":[{"a":"é"}]}`, " { \"pdus\": [{\"a\":\"\\u00e9\"}], \"origin_server_ts\":1}\n"
	request, err := r.a.Request(http.MethodPut, relayName, uri, json.RawMessage(content))
	require.NoError(t, err)
	request.Body, request.ContentLength, request.GetBody = io.NopCloser(strings.NewReader(spelled)), int64(len(spelled)), nil
	status, body := r.do(request)
	require.Equal(t, http.StatusOK, status, body)
	got := r.batch(r.b, 0, "")
	require.Len(t, got, 1)
	proof, err := wire.ReadProof(got[0].Proof)
	require.NoError(t, err)
	require.Equal(t, r.a.ServerName, proof.Origin)
	proven, err := proof.Check(t.Context(), relay.HexKeys{}, got[0].Transaction, r.b.ServerName)
	require.NoError(t, err)
	require.Equal(t, content, string(proven.Content))

	// So it can be passed on to another.
	status, body = r.put(r.a, "1", r.b.ServerName, string(wire.WithProof(proven.Content, proof)))
	requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body) // but for its age
	require.Contains(t, body, "older")
}

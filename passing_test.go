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

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

var first = relaytest.NewNode("first relay") // passes on its mail

// leaveAtFirst signs a transaction for the first relay, and returns the body and the
// proof that the relay keeps.
func leaveAtFirst(t testing.TB, from *relaytest.Node, id string, to spec.ServerName, content string) (signed []byte, proof wire.Proof) {
	t.Helper()
	uri := wire.SendRelayURI(gomatrixserverlib.TransactionID(id), relaytest.User(to))
	request, err := from.Request(http.MethodPut, first.ServerName, uri, json.RawMessage(content))
	require.NoError(t, err)
	signed, err = io.ReadAll(request.Body)
	require.NoError(t, err)
	proof, ok := wire.ProofOf(&wire.SignedRequest{
		Method: http.MethodPut, URI: uri, Authorization: request.Header.Values("Authorization"), Content: signed,
	}, first.ServerName)
	require.True(t, ok)
	return signed, proof
}

func contentAt(origin spec.ServerName, at time.Time) string {
	return fmt.Sprintf(`{"edus":[],"origin":%q,"origin_server_ts":%d,"pdus":[{"a":"b"}]}`, origin, at.UnixMilli())
}

// A relay passes on its mail, with and without an origin in it.
func TestPassedOn(t *testing.T) {
	r := newRig(t, nil)
	now := time.Now()
	for i, content := range []string{
		contentAt(r.a.ServerName, now), fmt.Sprintf(`{"origin_server_ts":%d,"pdus":[{"c":"d"}]}`, now.UnixMilli()),
	} {
		signed, proof := leaveAtFirst(t, r.a, fmt.Sprint(i), r.b.ServerName, content)
		status, answer := r.put(first, fmt.Sprint(i), r.b.ServerName, string(wire.WithProof(signed, proof)))
		require.Equal(t, http.StatusOK, status, answer)
		require.JSONEq(t, `{"proven":true}`, answer)
		require.True(t, wire.IsProven([]byte(answer)))

		entries, err := r.store.Next(t.Context(), r.b.ServerName, 0, 1, 1<<20)
		require.NoError(t, err)
		require.Equal(t, r.a.ServerName, entries[0].Origin)
		require.EqualValues(t, fmt.Sprint(i), entries[0].TransactionID)
		require.Equal(t, string(signed), string(entries[0].Body))
		require.Equal(t, string(proof.JSON()), string(entries[0].Proof))
		age := relay.DefaultLifetime - entries[0].Lifetime
		require.Positive(t, age, "it lives no longer than at the first")
		require.LessOrEqual(t, age, time.Since(now)+time.Second)

		got := r.batch(r.b, 0, "?limit=1")
		handed, err := wire.ReadProof(got[0].Proof)
		require.NoError(t, err)
		require.Equal(t, first.ServerName, handed.Relay)
		proven, err := handed.Check(t.Context(), relay.HexKeys{}, got[0].Transaction, r.b.ServerName)
		require.NoError(t, err)
		require.Equal(t, string(signed), string(proven.Content))
		require.Equal(t, r.a.ServerName, r.fetch(r.b)[0].Transaction.Origin, "a deployed node sees the origin")
	}
}

func TestPassingOnRefused(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.MaxBodyBytes = 20_000 })
	now := time.Now()
	signed, proof := leaveAtFirst(t, r.a, "1", r.b.ServerName, contentAt(r.a.ServerName, now))
	bare, bareProof := leaveAtFirst(t, r.a, "1", r.b.ServerName, fmt.Sprintf(`{"origin_server_ts":%d,"pdus":[]}`, now.UnixMilli()))
	old, oldProof := leaveAtFirst(t, r.a, "1", r.b.ServerName, contentAt(r.a.ServerName, now.Add(-relay.DefaultLifetime-time.Hour)))
	timeless, timelessProof := leaveAtFirst(t, r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	large, largeProof := leaveAtFirst(t, r.a, "1", r.b.ServerName, `{"pdus":[{"a":"`+strings.Repeat("x", 20_000)+`"}]}`)
	ours, oursProof := leaveAtFirst(t, r.a, "1", relayName, contentAt(r.a.ServerName, now))
	with := func(content []byte, p wire.Proof, change func(*wire.Proof)) string {
		if change != nil {
			change(&p)
		}
		return string(wire.WithProof(content, p))
	}
	for name, c := range map[string]struct {
		id, content string
		to          spec.ServerName
		status      int
		code        string
	}{
		"no proof":          {"1", string(signed), r.b.ServerName, 403, "M_FORBIDDEN"},
		"other content":     {"1", strings.Replace(with(signed, proof, nil), `"b"`, `"c"`, 1), r.b.ServerName, 403, "M_FORBIDDEN"},
		"other ID":          {"2", with(signed, proof, nil), r.b.ServerName, 403, "M_FORBIDDEN"},
		"other destination": {"1", with(signed, proof, nil), r.c.ServerName, 403, "M_FORBIDDEN"},
		"other origin":      {"1", with(bare, bareProof, func(p *wire.Proof) { p.Origin = first.ServerName }), r.b.ServerName, 403, "M_FORBIDDEN"},
		"no origin":         {"1", with(bare, bareProof, func(p *wire.Proof) { p.Origin = "" }), r.b.ServerName, 403, "M_FORBIDDEN"},
		"other relay":       {"1", with(signed, proof, func(p *wire.Proof) { p.Relay = relayName }), r.b.ServerName, 403, "M_FORBIDDEN"},
		"other proof":       {"1", with(signed, bareProof, nil), r.b.ServerName, 403, "M_FORBIDDEN"},
		"empty proof":       {"1", `{"pdus":[],"relay_proof":{}}`, r.b.ServerName, 403, "M_FORBIDDEN"},
		"null":              {"1", `{"origin":"x","pdus":[],"relay_proof":null}`, r.b.ServerName, 403, "M_FORBIDDEN"},
		"a text":            {"1", `{"pdus":[],"relay_proof":"x"}`, r.b.ServerName, 400, "M_BAD_JSON"},
		"long":              {"1", with(signed, proof, func(p *wire.Proof) { p.URI += strings.Repeat("x", wire.MaxProofBytes) }), r.b.ServerName, 400, "M_BAD_JSON"},
		"no PDUs":           {"1", with([]byte(`{"x":1}`), proof, nil), r.b.ServerName, 400, "M_BAD_JSON"},
		"too old":           {"1", with(old, oldProof, nil), r.b.ServerName, 403, "M_FORBIDDEN"},
		"no time":           {"1", with(timeless, timelessProof, nil), r.b.ServerName, 403, "M_FORBIDDEN"},
		"too large":         {"1", with(large, largeProof, nil), r.b.ServerName, 413, "M_TOO_LARGE"},
		"large without":     {"1", `{"a":"` + strings.Repeat("x", 20_000) + `","b":{"relay_proof":1},"pdus":[]}`, r.b.ServerName, 413, "M_TOO_LARGE"},
		"for the relay":     {"1", with(ours, oursProof, nil), relayName, 403, "M_FORBIDDEN"},
		"right":             {"1", with(signed, proof, nil), r.b.ServerName, 200, ""},
	} {
		status, body := r.put(first, c.id, c.to, c.content)
		require.Equal(t, c.status, status, "%s: %s", name, body)
		if c.status != http.StatusOK {
			requireError(t, c.status, c.code, status, body)
		}
	}
	require.Len(t, r.fetch(r.b), 1)
	require.Empty(t, r.fetch(r.c))
}

// Mail that never expires here has no age.
func TestPassedOnForEver(t *testing.T) {
	r := newRig(t, func(c *relay.Config) { c.Lifetime = -1 })
	signed, proof := leaveAtFirst(t, r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	status, body := r.put(first, "1", r.b.ServerName, string(wire.WithProof(signed, proof)))
	require.Equal(t, http.StatusOK, status, body)
}

// The limit is the content's: a proof comes on top.
func TestPassedOnAsLargeAsMayBe(t *testing.T) {
	const limit = 5000
	r := newRig(t, func(c *relay.Config) { c.MaxBodyBytes = limit })
	content := contentAt(r.a.ServerName, time.Now())
	content = strings.Replace(content, `"b"`, `"`+strings.Repeat("x", limit-len(content)+1)+`"`, 1)
	require.Len(t, content, limit)
	signed, proof := leaveAtFirst(t, r.a, "1", r.b.ServerName, content)
	status, body := r.put(first, "1", r.b.ServerName, string(wire.WithProof(signed, proof)))
	require.Equal(t, http.StatusOK, status, body)
	status, body = r.put(r.a, "2", r.b.ServerName, content)
	require.Equal(t, http.StatusOK, status, body)
	status, body = r.put(r.a, "3", r.b.ServerName, strings.Replace(content, "xx", "xxx", 1))
	requireError(t, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", status, body)
}

// A transaction that comes directly and is also passed on is the same mail.
func TestPassedOnCopies(t *testing.T) {
	r := newRig(t, nil)
	content := contentAt(r.a.ServerName, time.Now())
	signed, proof := leaveAtFirst(t, r.a, "1", r.b.ServerName, content)
	passOn := func(content []byte) {
		status, body := r.put(first, "1", r.b.ServerName, string(wire.WithProof(content, proof)))
		require.Equal(t, http.StatusOK, status, body)
		require.True(t, wire.IsProven([]byte(body)))
	}
	passOn(signed)
	status, body := r.put(r.a, "1", r.b.ServerName, content)
	require.Equal(t, http.StatusOK, status, body)
	require.JSONEq(t, `{}`, body)
	passOn(signed)
	require.Len(t, r.fetch(r.b), 1)
	passOn(signed)
	require.Empty(t, r.fetch(r.b), "nor after it was acknowledged")
}

func TestAdmitPassedOn(t *testing.T) {
	var mu sync.Mutex
	asked := make(map[spec.ServerName]int)
	refused := spec.ServerName("")
	r := newRig(t, func(c *relay.Config) {
		c.Policy = policy.Func(func(_ context.Context, origin, _ spec.ServerName) error {
			mu.Lock()
			defer mu.Unlock()
			asked[origin]++
			if origin == refused {
				return wire.Forbidden("not here")
			}
			return nil
		})
	})
	signed, proof := leaveAtFirst(t, r.a, "1", r.b.ServerName, contentAt(r.a.ServerName, time.Now()))
	for i, name := range []spec.ServerName{first.ServerName, r.a.ServerName, ""} {
		mu.Lock()
		refused = name
		mu.Unlock()
		status, body := r.put(first, "1", r.b.ServerName, string(wire.WithProof(signed, proof)))
		if name != "" {
			requireError(t, http.StatusForbidden, "M_FORBIDDEN", status, body)
		}
		require.Equal(t, i+1, asked[first.ServerName])
		require.Equal(t, i, asked[r.a.ServerName])
	}
	require.Len(t, r.fetch(r.b), 1)
}

// A key that can't be had is no forgery: come again. The signer's could be had.
func TestPassedOnWithoutKey(t *testing.T) {
	r := newRig(t, nil)
	named := *r.a
	named.ServerName = "named.example"
	signed, proof := leaveAtFirst(t, &named, "1", r.b.ServerName, contentAt("named.example", time.Now()))
	for name, others := range map[string]gomatrixserverlib.JSONVerifier{
		"missing": gomatrixserverlib.KeyRing{KeyDatabase: noKeys{}}, "away": brokenRing{},
	} {
		r := newRig(t, func(c *relay.Config) { c.Keys = relay.HexKeys{Others: others} })
		status, body := r.put(first, "1", r.b.ServerName, string(wire.WithProof(signed, proof)))
		want := map[string]int{"missing": http.StatusServiceUnavailable, "away": http.StatusInternalServerError}
		requireError(t, want[name], "M_UNKNOWN", status, body)
	}
}

type noKeys struct{}

func (noKeys) FetcherName() string { return "none" }

func (noKeys) FetchKeys(context.Context, map[gomatrixserverlib.PublicKeyLookupRequest]spec.Timestamp) (map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult, error) {
	return nil, nil
}

func (noKeys) StoreKeys(context.Context, map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult) error {
	return nil
}

type brokenRing struct{}

func (brokenRing) VerifyJSONs(context.Context, []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	return nil, errors.New("the key database is away")
}

// A server that names an origin with slow keys holds up nobody else.
func TestSlowKeysOfAnOrigin(t *testing.T) {
	keys := slowKeys{make(chan struct{}, 1)}
	r := newRig(t, func(c *relay.Config) {
		c.MaxBodyBytes, c.MaxInFlightBytes = inFlight, inFlight
		c.Keys = wire.HexKeys{Others: keys}
	})
	r.server.NoGrace()
	slow := *r.a
	slow.ServerName = "slow.example"
	signed, proof := leaveAtFirst(t, &slow, "1", r.b.ServerName, string(largeContent(inFlight/2)))
	answered := make(chan int, 1)
	go func() {
		status, _ := r.put(first, "1", r.b.ServerName, string(wire.WithProof(signed, proof)))
		answered <- status
	}()
	<-keys.asked
	status, body := r.put(r.a, "1", r.b.ServerName, string(largeContent(inFlight/2)))
	require.Equal(t, http.StatusOK, status, body)
	require.Equal(t, http.StatusTooManyRequests, <-answered)
	require.Zero(t, r.server.Held())
}

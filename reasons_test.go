package relay_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// values returns the values of a metric by its only label; of a histogram, how often
// something was observed, and the sum.
func values(t *testing.T, registry *prometheus.Registry, name string) (counts, sums map[string]float64) {
	families, err := registry.Gather()
	require.NoError(t, err)
	counts, sums = make(map[string]float64), make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() != name {
				continue
			}
			label := metric.GetLabel()[0].GetValue()
			counts[label] = metric.GetCounter().GetValue()
			if h := metric.GetHistogram(); h != nil {
				counts[label], sums[label] = float64(h.GetSampleCount()), h.GetSampleSum()
			}
		}
	}
	return counts, sums
}

// Each refusal is counted under its reason, and a status that an embedder makes up adds
// no series.
func TestRefusalsByReason(t *testing.T) {
	registry := prometheus.NewRegistry()
	var answer error
	r := newRig(t, func(c *relay.Config) {
		c.Registerer, c.MaxBodyBytes, c.MaxEntries = registry, 10_000, 1
		c.Policy = policy.Func(func(context.Context, spec.ServerName, spec.ServerName) error { return answer })
	})
	got, _ := values(t, registry, "relay_refusals_total")
	require.Len(t, got, len(relay.Reasons()), "they are there from the start")
	refused := func(reason string, makeRequest func()) {
		t.Helper()
		before, _ := values(t, registry, "relay_refusals_total")
		makeRequest()
		after, _ := values(t, registry, "relay_refusals_total")
		require.Len(t, after, len(before))
		before[reason]++
		require.Equal(t, before, after)
	}
	get := func(method, path string) func() {
		return func() {
			r.server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, path, nil))
		}
	}
	put := func(content string) func() { return func() { r.put(r.a, "1", r.b.ServerName, content) } }
	refused("unrecognized", get(http.MethodGet, "/_matrix/federation/v1/other"))
	refused("method", get(http.MethodDelete, wire.RelayTxnURI(relaytest.User(r.b.ServerName))))
	refused("signature", get(http.MethodGet, wire.RelayTxnURI(relaytest.User(r.b.ServerName))))
	refused("forbidden", func() { r.ask(r.a, r.b.ServerName, `{"entry_id":0}`) })
	refused("not_found", func() { r.record(http.MethodGet, r.a, r.b.ServerName, nil) })
	refused("bad_request", put(`{"pdus":1}`))
	refused("too_large", put(`{"pdus":["`+strings.Repeat("x", 20_000)+`"]}`))
	require.NoError(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "1", 1, 100)))
	refused("full", func() { require.Error(t, r.send(r.a, r.a.Transaction(r.b.ServerName, "2", 1, 100))) })
	for reason, err := range map[string]error{
		"policy": wire.Forbidden("no"), "rate": wire.LimitExceeded("no", time.Second), "failed": errors.New("no"),
		"other": &wire.Error{Status: http.StatusTeapot, Message: "no"},
	} {
		answer = err
		refused(reason, put(`{"pdus":[]}`))
	}
	require.NoError(t, r.server.Close())
}

// The time that an answer is held doesn't count, that of a slow policy does.
func TestRequestDurations(t *testing.T) {
	registry := prometheus.NewRegistry()
	quietly(t, func(c *relay.Config) {
		c.Registerer = registry
		c.Policy = policy.Func(func(context.Context, spec.ServerName, spec.ServerName) error { time.Sleep(time.Second); return nil })
	}, func(q *quiet) {
		held := q.ask(q.b, 0, "?limit=10&timeout=60000")
		time.Sleep(30 * time.Second)
		q.put(q.b, "1")
		<-held.isThere
		counts, sums := values(t, registry, "relay_request_duration_seconds")
		require.Equal(t, map[string]float64{"send_relay": 1, "relay_txn": 1}, counts)
		require.Equal(t, map[string]float64{"send_relay": 1, "relay_txn": 0}, sums)
	})
}

// A slowRing takes a second to know, or not to know, a key.
type slowRing struct{ err error }

func (k slowRing) VerifyJSONs(_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	time.Sleep(time.Second)
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	results[0].Error = k.err
	return results, nil
}

func TestKeyLookups(t *testing.T) {
	registry := prometheus.NewRegistry()
	ring := &slowRing{}
	quietly(t, func(c *relay.Config) {
		c.Registerer, c.Keys = registry, relay.HexKeys{Others: ring}
	}, func(q *quiet) {
		q.put(q.b, "1") // from a server whose key is known
		named := relaytest.NewNamed("alice.example")
		for _, ring.err = range []error{nil, errors.New("wrong"), wire.ErrNoKey} {
			request, err := named.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(named.ServerName)), []byte(`{"entry_id":0}`))
			require.NoError(t, err)
			q.server.ServeHTTP(httptest.NewRecorder(), request)
		}
		counts, sums := values(t, registry, "relay_key_lookup_duration_seconds")
		require.Equal(t, map[string]float64{"found": 1, "wrong": 1, "failed": 1}, counts)
		require.Equal(t, map[string]float64{"found": 1, "wrong": 1, "failed": 1}, sums)
	})
}

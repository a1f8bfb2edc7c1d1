package relay_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A request over its share is refused before its body is read.
func TestOverShareIsNotRead(t *testing.T) {
	r := newRig(t, func(c *relay.Config) {
		c.Policy = policy.NewLimits(policy.LimitsConfig{Address: policy.Shares{Requests: policy.Rate{PerSecond: 1e-6, Burst: 1}}, Wide: 1})
	})
	status, _ := r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status)
	source := &endless{}
	request, err := http.NewRequest(http.MethodPut, "matrix://"+relayName+"/_matrix/federation/v1/send_relay/1/@user:b", source)
	require.NoError(t, err)
	request.Header.Set("Expect", "100-continue")
	response, err := r.network.RoundTrip(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusTooManyRequests, response.StatusCode)
	require.NotEmpty(t, response.Header.Get("Retry-After"))
	require.Zero(t, source.taken.Load())
	for _, uri := range []string{"", "/_matrix/federation/v1/send_relay/1/user", "/_matrix/other"} { // nor parsed
		request, err := http.NewRequest(http.MethodGet, "matrix://"+relayName+uri, nil)
		require.NoError(t, err)
		status, body := r.do(request)
		requireError(t, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", status, body)
		require.Contains(t, body, `"retry_after_ms":`)
	}
}

// A watch is a policy that writes down its requests and their use.
type watch struct {
	mu    sync.Mutex
	asked []policy.Request
	used  chan policy.Used
}

func newWatch() *watch { return &watch{used: make(chan policy.Used, 1)} }

func (w *watch) Admit(_ context.Context, r *policy.Request) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, *r)
	if r.Stage == policy.Arrived {
		r.WhenDone(func(used policy.Used) { w.used <- used })
	}
	return nil
}

// take returns the stages and the last request since the last time, when the server is
// done with the request.
func (w *watch) take() (stages []policy.Stage, last policy.Request, used policy.Used) {
	used = <-w.used
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.asked {
		stages, last = append(stages, r.Stage), r
	}
	w.asked = nil
	return stages, last, used
}

func TestWhatAPolicySees(t *testing.T) {
	w := newWatch()
	r := newRig(t, func(c *relay.Config) {
		c.Policy = policy.All(w)
		c.ClientAddress = func(*http.Request) netip.Addr { return netip.MustParseAddr("192.0.2.7") }
	})
	all := []policy.Stage{policy.Arrived, policy.Claimed, policy.Signed}

	status, _ := r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status)
	stages, last, used := w.take()
	require.Equal(t, all, stages)
	require.Equal(t, "192.0.2.7", last.Address.String())
	require.Equal(t, wire.SendRelay, last.Endpoint)
	require.Equal(t, []spec.ServerName{r.a.ServerName, r.b.ServerName}, []spec.ServerName{last.Origin, last.Destination})
	require.EqualValues(t, len(`{"pdus":[]}`), last.Bytes)
	require.EqualValues(t, relay.DefaultMaxBytes, last.Room.Limits.Bytes)
	require.Equal(t, relay.DefaultLifetime, last.Room.Lifetime)
	usage, err := r.store.Usage(t.Context(), r.b.ServerName)
	require.NoError(t, err)
	require.Equal(t, policy.Used{Received: last.Bytes, Sent: 2, Stored: usage.Bytes}, used)

	status, _ = r.put(r.a, "1", r.b.ServerName, `{"pdus":[]}`)
	require.Equal(t, http.StatusOK, status)
	_, _, used = w.take()
	require.Zero(t, used.Stored, "a copy stores nothing")

	status, body := r.ask(r.b, r.b.ServerName, `{"entry_id":0}`)
	require.Equal(t, http.StatusOK, status)
	stages, last, used = w.take()
	require.Equal(t, all, stages)
	require.Equal(t, wire.RelayTxn, last.Endpoint)
	require.Equal(t, policy.Used{Received: int64(len(`{"entry_id":0}`)), Sent: int64(len(body))}, used)

	request, err := r.a.Request(http.MethodPut, relayName, "/_matrix/federation/v1/send_relay/1/@user:b", struct{}{})
	require.NoError(t, err)
	before, signature, _ := strings.Cut(request.Header.Get("Authorization"), `sig="`)
	request.Header.Set("Authorization", before+`sig="AA`+signature[2:])
	status, _ = r.do(request)
	require.Equal(t, http.StatusUnauthorized, status)
	stages, _, used = w.take()
	require.Equal(t, all[:2], stages, "its signature is wrong")
	require.EqualValues(t, 2, used.Received)

	request, err = http.NewRequest(http.MethodGet, "matrix://"+relayName+"/other", nil)
	require.NoError(t, err)
	status, _ = r.do(request)
	require.Equal(t, http.StatusNotFound, status)
	stages, _, _ = w.take()
	require.Equal(t, all[:1], stages)
}

// A policy gives mail less room: less time, fewer entries, and then the spare room.
func TestRoomOfAPolicy(t *testing.T) {
	p := &smallRoom{}
	r := newRig(t, func(c *relay.Config) { c.Policy = p })
	for i, want := range []int{200, 200, 507} {
		status, body := r.put(r.a, string(rune('1'+i)), r.b.ServerName, `{"pdus":[]}`)
		require.Equal(t, want, status, body)
	}
	entries, err := r.store.Next(t.Context(), r.b.ServerName, 0, 10, 1<<20)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	for _, e := range entries {
		require.LessOrEqual(t, e.Lifetime, relay.DefaultLifetime/2)
	}
}

type smallRoom struct{}

func (*smallRoom) Admit(_ context.Context, r *policy.Request) error {
	if r.Stage == policy.Signed {
		r.Room = policy.Room{Limits: store.Limits{Entries: 1}, Spare: &store.Limits{Entries: 2}, Lifetime: relay.DefaultLifetime / 2}
	}
	return nil
}

// A member's connection counts for the member, though others flood its address.
func TestConnContext(t *testing.T) {
	member := relaytest.NewNode("member")
	w := newWatch()
	mail := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{ServerName: relayName, Store: mail, Policy: policy.All(w, policy.NewClosed(member.ServerName))})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	web := &http.Server{Handler: server, ConnContext: relay.ConnContext}
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(listener) })
	r := &rig{TB: t, server: server, network: relaytest.NewNetwork()}
	r.network.Set(relayName, relaytest.Host{Address: listener.Addr().String()})
	t.Cleanup(func() {
		r.network.CloseIdleConnections()
		require.NoError(t, web.Close())
		serving.Wait()
		require.NoError(t, server.Close())
		require.NoError(t, mail.Close())
	})
	for range 2 { // any server that has the proof could have sent it
		_, _ = r.put(member, "1", member.ServerName, `{"pdus":[]}`)
		_, last, _ := w.take()
		require.Empty(t, last.Known)
	}
	for _, c := range []struct {
		signer, owner *relaytest.Node
		known         spec.ServerName
	}{
		{relaytest.NewNode("stranger"), member, ""},
		{member, member, ""},
		{member, member, member.ServerName},
		{relaytest.NewNode("stranger"), member, member.ServerName}, // through the same client
	} {
		_, _ = r.ask(c.signer, c.owner.ServerName, `{"entry_id":0}`)
		_, last, _ := w.take()
		require.Equal(t, c.known, last.Known)
	}
}

package relay_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/bounded"
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

// A watchedWeb is a relay with one member behind a real server, whose policy is watched.
type watchedWeb struct {
	*rig
	watch  *watch
	member *relaytest.Node
}

func newWatchedWeb(t *testing.T, address func(*http.Request) netip.Addr) *watchedWeb {
	w := &watchedWeb{watch: newWatch(), member: relaytest.NewNode("member")}
	mail := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{
		ServerName: relayName, Store: mail, ClientAddress: address, Logger: slog.New(slog.DiscardHandler),
		Policy: policy.All(w.watch, policy.NewClosed(w.member.ServerName)),
	})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	listener = bounded.Listen(listener, bounded.Options{Connections: 320, Address: func(net.Conn) netip.Addr { return netip.MustParseAddr("192.0.2.1") }})
	web := &http.Server{Handler: server, ConnContext: relay.ConnContext}
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(listener) })
	w.rig = &rig{TB: t, server: server, network: relaytest.NewNetwork()}
	w.address = listener.Addr().String()
	w.network.Set(relayName, relaytest.Host{Address: w.address})
	t.Cleanup(func() {
		w.network.CloseIdleConnections()
		require.NoError(t, web.Close())
		serving.Wait()
		require.NoError(t, server.Close())
		require.NoError(t, mail.Close())
	})
	return w
}

// known is the server that the connection of the next request counts for, if a signer
// asks for the member's mail.
func (w *watchedWeb) known(signer *relaytest.Node, header ...string) spec.ServerName {
	r, err := signer.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(w.member.ServerName)), fclient.RelayEntry{})
	require.NoError(w, err)
	for _, name := range header {
		r.Header.Set(name, "odd")
	}
	_, _ = w.do(r)
	_, last, _ := w.watch.take()
	return last.Known
}

// A member's connection counts for the member, though others flood its address.
func TestConnContext(t *testing.T) {
	w := newWatchedWeb(t, nil)
	for range 2 { // any server that has the proof could have sent it
		_, _ = w.put(w.member, "1", w.member.ServerName, `{"pdus":[]}`)
		_, last, _ := w.watch.take()
		require.Empty(t, last.Known)
	}
	require.Empty(t, w.known(w.member))
	require.Equal(t, w.member.ServerName, w.known(w.member))
	r, err := http.NewRequest(http.MethodGet, "matrix://"+relayName+wire.InfoURI, nil)
	require.NoError(t, err)
	_, _ = w.do(r)
	_, _, _ = w.watch.take()
	require.Equal(t, w.member.ServerName, w.known(w.member), "info isn't signed by anybody")
}

// The places of a member's connections aren't those of its address, of which somebody
// else there takes as many as there are.
func TestConnectionKeepsItsPlace(t *testing.T) {
	w := newWatchedWeb(t, nil)
	require.Empty(t, w.known(w.member))
	for range 100 {
		c, err := net.Dial("tcp", w.address)
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
	}
	stranger := relaytest.NewNetwork() // once this is answered, all were accepted
	defer stranger.CloseIdleConnections()
	stranger.Set(relayName, relaytest.Host{Address: w.address})
	r, err := http.NewRequest(http.MethodGet, "matrix://"+relayName+wire.InfoURI, nil)
	require.NoError(t, err)
	answer, err := stranger.RoundTrip(r)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	_, _, _ = w.watch.take()
	require.Equal(t, w.member.ServerName, w.known(w.member), "on the same connection")
}

// A proxy's connection, which brings requests of many, counts for none of them, also if
// nobody has said that it is a proxy, or it doesn't say whose requests it brings.
func TestProxyConnectionIsNobodys(t *testing.T) {
	stranger := relaytest.NewNode("stranger")
	odd := func(w *watchedWeb) {
		r, err := http.NewRequest(http.MethodGet, "matrix://"+relayName+"/_matrix/odd", nil)
		require.NoError(t, err)
		_, _ = w.do(r)
		_, _, _ = w.watch.take()
	}
	loopback := relay.ProxiedAddress("X-Forwarded-For", netip.MustParsePrefix("127.0.0.0/8"))
	for name, c := range map[string]struct {
		address func(*http.Request) netip.Addr
		other   func(*watchedWeb) // what another client of the proxy does
	}{
		"a stranger's request":        {nil, func(w *watchedWeb) { w.known(stranger) }},
		"a request of nobody":         {nil, odd},
		"a header of a proxy":         {nil, func(w *watchedWeb) { w.known(w.member, "X-Forwarded-For") }},
		"a named one without headers": {loopback, func(*watchedWeb) {}},
	} {
		for _, isFirst := range []bool{true, false} {
			w := newWatchedWeb(t, c.address)
			if isFirst {
				c.other(w)
			}
			w.known(w.member)
			c.other(w)
			require.Empty(t, w.known(w.member), "%s, first: %v", name, isFirst)
			require.Empty(t, w.known(w.member), "%s, first: %v", name, isFirst)
		}
	}
}

package discovery

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

func TestIsPublic(t *testing.T) {
	for address, want := range map[string]bool{
		"8.8.8.8": true, "2a00:1450::1": true, "2606:4700::1": true, "::ffff:8.8.8.8": true, "100.128.0.1": true, "172.32.0.1": true,
		"0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "100.64.0.1": false, "127.0.0.1": false, "127.255.255.255": false,
		"169.254.169.254": false, "172.16.0.1": false, "172.31.255.255": false, "192.0.0.1": false, "192.0.2.1": false, "192.168.0.1": false,
		"198.18.0.1": false, "198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::7f00:1": false,
		"64:ff9b::7f00:1": false, "64:ff9b:1::a00:1": false, "2002:7f00:1::": false, "2001::1": false, "2001:db8::1": false, "3fff::1": false,
		"100::1": false, "200::1": false, "301::1": false, "fc00::1": false, "fd00::1": false, "fe80::1": false, "fe80::1%lo": false,
		"fec0::1": false, "ff02::1": false, "4000::1": false,
	} {
		require.Equal(t, want, IsPublic(netip.MustParseAddr(address)), address)
	}
	require.False(t, IsPublic(netip.Addr{}))
}

// TestPrivateAddresses: no name leads to them.
func TestPrivateAddresses(t *testing.T) {
	r := newRig(t)
	r.handle = http.NotFound
	r.zone.addresses["private.example"] = []string{victimAddress}
	r.zone.addresses["mixed.example"] = []string{victimAddress, "127.0.0.3"}
	r.zone.services["_matrix-fed._tcp.service.example"] = dnsmessage.SRVResource{Port: r.portNumber(), Target: dnsmessage.MustNewName("private.example.")}
	for _, server := range []string{
		victimAddress + ":" + r.port, "[::ffff:" + victimAddress + "]:" + r.port, "[::1]:" + r.port, "private.example:" + r.port,
		"private.example", "mixed.example", "service.example", victimAddress, "localhost:1",
	} {
		require.ErrorIs(t, r.get(t.Context(), server), ErrPrivate, server)
	}
	require.Zero(t, r.reached.Load())

	r.transport.allowed = func(netip.AddrPort) bool { return true }
	require.Error(t, r.get(t.Context(), victimAddress+":"+r.port), "its certificate is for another address")
	require.NoError(t, r.get(t.Context(), "service.example"))
	require.Positive(t, r.reached.Load(), "the victim is there")
}

func (r *rig) portNumber() uint16 {
	port, err := strconv.ParseUint(r.port, 10, 16)
	require.NoError(r, err)
	return uint16(port)
}

// TestHostileWellKnown: nothing that a server answers leads to a private
// address, and nothing to another port, or out of TLS.
func TestHostileWellKnown(t *testing.T) {
	r := newRig(t)
	other, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = other.Close() }()
	r.zone.addresses["private.example"] = []string{victimAddress}
	r.zone.addresses["hostile.example"] = []string{"127.0.0.1"}
	redirect := func(to string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, to, http.StatusFound) }
	}
	answer := func(server string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, `{"m.server":%q}`, server) }
	}
	for name, handle := range map[string]func(http.ResponseWriter, *http.Request){
		"redirect to an address":    redirect("https://" + victimAddress + ":" + r.port + "/"),
		"redirect to a name":        redirect("https://private.example:" + r.port + "/"),
		"redirect to http":          redirect("http://" + victimAddress + ":" + r.port + "/"),
		"redirect to a mapped one":  redirect("https://[::ffff:" + victimAddress + "]:" + r.port + "/"),
		"redirect to another port":  redirect("https://" + other.Addr().String() + "/"),
		"redirect to no host":       redirect("https://:" + r.port + "/"),
		"redirect to another thing": redirect("file:///etc/passwd"),
		"delegation to an address":  answer(victimAddress + ":" + r.port),
		"delegation to a name":      answer("private.example"),
		"delegation with a port":    answer("private.example:" + r.port),
		"delegation to localhost":   answer("localhost:1"),
	} {
		var asked atomic.Int32
		r.handle = func(w http.ResponseWriter, q *http.Request) {
			if asked.Add(1); q.URL.Path == "/.well-known/matrix/server" {
				handle(w, q)
				return
			}
			http.NotFound(w, q)
		}
		r.transport.forget("hostile.example")
		err := r.get(t.Context(), "hostile.example")
		if strings.HasPrefix(name, "delegation") {
			require.ErrorIs(t, err, ErrPrivate, name)
		} else {
			require.NoError(t, err, "%s: it has no good well-known answer, and is itself there", name)
		}
		require.Positive(t, asked.Load(), "it was asked")
		require.Zero(t, r.reached.Load(), name)
	}
	require.NoError(t, other.(*net.TCPListener).SetDeadline(time.Now()))
	_, err = other.Accept()
	require.Error(t, err, "nobody has come to the other port")
}

// TestEndlessAnswers: redirects, bodies, headers and silence have an end.
func TestEndlessAnswers(t *testing.T) {
	r := newRig(t)
	r.zone.addresses["hostile.example"] = []string{"127.0.0.1"}
	var asked, sent atomic.Int64
	wellKnown := func(handle http.HandlerFunc) {
		asked.Store(0)
		r.transport.forget("hostile.example")
		r.handle = func(w http.ResponseWriter, q *http.Request) {
			if strings.HasPrefix(q.URL.Path, "/.well-known/") {
				asked.Add(1)
				handle(w, q)
			}
		}
	}
	wellKnown(func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, "/.well-known/"+strconv.FormatInt(asked.Load(), 10), http.StatusFound)
	})
	require.NoError(t, r.get(t.Context(), "hostile.example"))
	require.EqualValues(t, 1+maxRedirects, asked.Load())

	wellKnown(func(w http.ResponseWriter, q *http.Request) {
		for piece := []byte(strings.Repeat(" ", 4096)); q.Context().Err() == nil; {
			n, err := w.Write(piece)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	})
	require.NoError(t, r.get(t.Context(), "hostile.example"))
	require.Less(t, sent.Load(), int64(32<<20), "what a connection holds, and no more")

	ended := make(chan struct{})
	wellKnown(func(_ http.ResponseWriter, q *http.Request) {
		<-q.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	require.ErrorIs(t, r.get(ctx, "hostile.example"), context.Canceled)
	<-ended
}

// TestChangingNames: the address that is checked is the one that is used.
func TestChangingNames(t *testing.T) {
	r := newRig(t)
	r.zone.addresses["hostile.example"] = []string{victimAddress}
	r.zone.turns["hostile.example"] = [][]string{{"127.0.0.1"}}
	var asked atomic.Int32
	r.handle = func(w http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		http.NotFound(w, q)
	}
	require.ErrorIs(t, r.get(t.Context(), "hostile.example"), ErrPrivate)
	require.EqualValues(t, 1, asked.Load(), "for its well-known answer")
	require.Zero(t, r.reached.Load())
}

// TestManyAddresses: one request is no more than a few connections.
func TestManyAddresses(t *testing.T) {
	r := newRig(t)
	for i := range 60 {
		r.zone.addresses["hostile.example"] = append(r.zone.addresses["hostile.example"], fmt.Sprintf("127.1.0.%d", i))
	}
	r.zone.services["_matrix-fed._tcp.hostile.example"] = dnsmessage.SRVResource{Port: 1, Target: dnsmessage.MustNewName("hostile.example.")}
	var tried atomic.Int32
	r.transport.allowed = func(netip.AddrPort) bool { return true }
	r.transport.options.Permit = func(context.Context, netip.AddrPort) error { tried.Add(1); return nil }
	require.Error(t, r.get(t.Context(), "hostile.example"))
	require.Positive(t, tried.Load())
	require.LessOrEqual(t, tried.Load(), int32(maxSockets))
}

func TestOnlyMatrixURLs(t *testing.T) {
	r := newRig(t)
	for _, url := range []string{"https://" + victimAddress + ":" + r.port, "http://hostile.example/", "matrix:///x", "matrix://a_b!/"} {
		request, err := http.NewRequest(http.MethodPut, url, strings.NewReader("x"))
		require.NoError(t, err)
		_, err = r.transport.RoundTrip(request)
		require.Error(t, err, url)
	}
	require.Zero(t, r.reached.Load())
}

// TestFoundIsBounded: names that cost nothing take no memory, and have no server forgotten
// that is in use.
func TestFoundIsBounded(t *testing.T) {
	transport := New(Options{})
	used, err := http.NewRequest(http.MethodGet, "matrix://used.example/", nil)
	require.NoError(t, err)
	there := target{endpoint: "there.example:8448"}
	transport.remember("used.example", found{there, time.Now().Add(time.Hour)})
	transport.remember("unused.example", found{there, time.Now().Add(time.Hour)})
	for i := range maxFound + 100 {
		transport.remember(fmt.Sprintf("s%d.example", i), found{})
		to, err := transport.find(t.Context(), used)
		require.NoError(t, err)
		require.Equal(t, there, to)
	}
	require.True(t, transport.found.IsFull())
	_, ok := transport.found.Get("unused.example")
	require.False(t, ok)
}

// TestRedirects: where the answer to a well-known request may be.
func TestRedirects(t *testing.T) {
	transport := New(Options{})
	for to, good := range map[string]bool{
		"https://other.example/x": true, "https://other.example:443/x": true,
		"http://other.example/x": false, "http://other.example:443/x": false, "https://other.example:8448/x": false,
		"https://other.example:80/x": false, "file:///x": false, "matrix://other.example/x": false,
	} {
		request, err := http.NewRequest(http.MethodGet, to, nil)
		require.NoError(t, err)
		require.Equal(t, good, transport.checkRedirect(request, nil) == nil, to)
	}
}

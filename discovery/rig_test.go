package discovery

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// A zone is a DNS server in memory.
type zone struct {
	mu        sync.Mutex
	addresses map[string][]string // of names, in turn: each look-up takes one list away but the last
	turns     map[string][][]string
	services  map[string]dnsmessage.SRVResource
}

func (z *zone) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go z.serve(theirs)
		return ours, nil
	}}
}

// serve answers as over TCP until the other side hangs up.
func (z *zone) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		answer := z.answer(query)
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

func (z *zone) answer(query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil
	}
	q := m.Questions[0]
	out := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
	host := strings.TrimSuffix(q.Name.String(), ".")
	service, isService := z.services[host]
	switch {
	case q.Type == dnsmessage.TypeSRV && isService:
		out.Answers = append(out.Answers, dnsmessage.Resource{Header: header, Body: &service})
	case q.Type == dnsmessage.TypeA:
		for _, address := range z.take(host) {
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()}})
		}
	}
	if _, known := z.addresses[host]; len(out.Answers) == 0 && !known {
		out.RCode = dnsmessage.RCodeNameError
	}
	packed, err := out.Pack()
	if err != nil {
		panic(err) // the test's own mistake
	}
	return packed
}

// take returns the addresses of a host.
func (z *zone) take(host string) []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	if turns := z.turns[host]; len(turns) > 0 {
		z.turns[host] = turns[1:]
		return turns[0]
	}
	return z.addresses[host]
}

// certificate is good for all names of the tests.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"*.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, pool
}

// A rig is a hostile or a good server at one address, which counts as public,
// and a victim at another, which doesn't.
type rig struct {
	*testing.T
	zone      *zone
	transport *Transport
	port      string // of the server: for well-known, federation and all that
	handle    func(w http.ResponseWriter, r *http.Request)

	victim  net.Listener // at another address, with the same port
	reached atomic.Int32
}

func newRig(t *testing.T) *rig {
	r := &rig{T: t, zone: &zone{addresses: map[string][]string{}, turns: map[string][][]string{}, services: map[string]dnsmessage.SRVResource{}}}
	cert, pool := certificate(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.handle(w, q) }))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	t.Cleanup(server.Close)
	open := netip.MustParseAddrPort(server.Listener.Addr().String())
	_, r.port, _ = net.SplitHostPort(open.String())
	r.watchVictim(server.TLS)
	r.transport = New(Options{TLS: &tls.Config{RootCAs: pool}, Resolver: r.zone.resolver()})
	t.Cleanup(r.transport.CloseIdleConnections)
	r.transport.ports = ports{r.port, r.port}
	r.transport.allowed = func(to netip.AddrPort) bool { return to == open || IsPublic(to.Addr()) }
	return r
}

const victimAddress = "127.0.0.2"

// watchVictim has a victim listen, which would take every request.
func (r *rig) watchVictim(config *tls.Config) {
	var err error
	r.victim, err = net.Listen("tcp", net.JoinHostPort(victimAddress, r.port))
	if err != nil {
		r.Skipf("this system has one loopback address: %v", err)
	}
	counted := &countingListener{r.victim, &r.reached}
	server := &http.Server{Handler: http.NotFoundHandler(), TLSConfig: config.Clone()}
	go func() { _ = server.ServeTLS(counted, "", "") }()
	r.Cleanup(func() { _ = server.Close() })
}

type countingListener struct {
	net.Listener
	accepted *atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return conn, err
}

// get asks a server for something.
func (r *rig) get(ctx context.Context, server string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "matrix://"+server+"/_matrix/key/v2/server", nil)
	require.NoError(r, err)
	response, err := r.transport.RoundTrip(request)
	if err == nil {
		require.NoError(r, response.Body.Close())
	}
	return err
}

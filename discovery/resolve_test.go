package discovery

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// TestResolving goes through the steps of "Resolving server names": where the
// request goes, its Host header, and the name in TLS.
func TestResolving(t *testing.T) {
	r := newRig(t)
	for _, host := range []string{"plain", "known", "delegated", "host", "server", "old"} {
		r.zone.addresses[host+".example"] = []string{"127.0.0.1"}
	}
	service := func(host string) dnsmessage.SRVResource {
		return dnsmessage.SRVResource{Port: r.portNumber(), Target: dnsmessage.MustNewName(host)}
	}
	delegations := map[string]string{}
	var got []string
	r.handle = func(w http.ResponseWriter, q *http.Request) {
		host, _, _ := strings.Cut(q.Host, ":")
		if q.URL.Path != "/.well-known/matrix/server" {
			got = []string{q.Host, q.TLS.ServerName}
		} else if to, ok := delegations[host]; ok {
			_, _ = fmt.Fprintf(w, `{"m.server":%q}`, to)
		} else {
			http.NotFound(w, q)
		}
	}
	p := ":" + r.port
	for _, c := range []struct {
		step, server, delegation, service, host, tls string
	}{
		{"1", "127.0.0.1", "", "", "127.0.0.1", ""},
		{"1, with a port", "127.0.0.1" + p, "", "", "127.0.0.1" + p, ""},
		{"2", "plain.example" + p, "wrong.example", "", "plain.example" + p, "plain.example"},
		{"3.1", "known.example", "127.0.0.1" + p, "", "127.0.0.1" + p, ""},
		{"3.1, without a port", "known.example", "127.0.0.1", "", "127.0.0.1", ""},
		{"3.2", "known.example", "delegated.example" + p, "", "delegated.example" + p, "delegated.example"},
		{"3.3", "known.example", "service.example", "_matrix-fed._tcp.service.example", "service.example", "service.example"},
		{"3.4", "known.example", "service.example", "_matrix._tcp.service.example", "service.example", "service.example"},
		{"3.5", "known.example", "delegated.example", "", "delegated.example", "delegated.example"},
		{"3, and a bad answer", "known.example", "no name", "", "known.example", "known.example"},
		{"4", "service.example", "", "_matrix-fed._tcp.service.example", "service.example", "service.example"},
		{"5", "service.example", "", "_matrix._tcp.service.example", "service.example", "service.example"},
		{"6", "plain.example", "", "", "plain.example", "plain.example"},
	} {
		clear(r.zone.services)
		clear(delegations)
		if c.service != "" {
			r.zone.services[c.service] = service("host.example.")
		}
		if host, _, _ := strings.Cut(c.server, ":"); c.delegation != "" {
			delegations[host] = c.delegation
		}
		r.transport.forget(c.server)
		got = nil
		require.NoError(t, r.get(t.Context(), c.server), c.step)
		require.Equal(t, []string{c.host, c.tls}, got, c.step)
		r.transport.CloseIdleConnections()
	}

	r.zone.services["_matrix-fed._tcp.none.example"] = service(".")
	require.ErrorContains(t, r.get(t.Context(), "none.example"), "no such service")
	require.Error(t, r.get(t.Context(), "unknown.example"))
	require.ErrorContains(t, r.get(t.Context(), "127.0.0.1:1"), "not a public")
}

// TestFoundIsKept: a server is looked for once, and again when it can't be
// reached where it was.
func TestFoundIsKept(t *testing.T) {
	r := newRig(t)
	r.zone.addresses["known.example"] = []string{"127.0.0.1"}
	r.zone.addresses["delegated.example"] = []string{"127.0.0.1"}
	asked, delegation := 0, "delegated.example"
	r.handle = func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/.well-known/matrix/server" {
			asked++
			_, _ = fmt.Fprintf(w, `{"m.server":%q}`, delegation)
		}
	}
	for range 5 {
		require.NoError(t, r.get(t.Context(), "known.example"))
	}
	require.Equal(t, 1, asked)
	r.transport.forget("known.example")
	delegation = "delegated.example:1"
	require.Error(t, r.get(t.Context(), "known.example"))
	delegation = "delegated.example"
	require.NoError(t, r.get(t.Context(), "known.example"))
	require.Equal(t, 3, asked)
}

// TestCertificates: a server has the name that its certificate says.
func TestCertificates(t *testing.T) {
	r := newRig(t)
	r.zone.addresses["impostor.elsewhere"] = []string{"127.0.0.1"}
	r.handle = func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }
	require.ErrorContains(t, r.get(t.Context(), "impostor.elsewhere"), "certificate")
	require.ErrorContains(t, r.get(t.Context(), "impostor.elsewhere:"+r.port), "certificate")
}

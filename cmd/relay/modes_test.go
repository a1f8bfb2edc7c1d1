package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// startAsUsersDo starts the program with the limits that it has by default.
func startAsUsersDo(t *testing.T, args ...string) *program {
	t.Helper()
	p := launchCommand(t, withLimits(append([]string{"--listen", "127.0.0.1:0", "--name", string(relayName)}, args...)...))
	p.waitReady()
	return p
}

func (p *program) info() wire.RelayInfo {
	p.t.Helper()
	response, err := http.Get("http://" + p.address + wire.InfoURI)
	require.NoError(p.t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	require.NoError(p.t, response.Body.Close())
	require.Equal(p.t, http.StatusOK, response.StatusCode)
	require.Equal(p.t, "public, max-age=3600", response.Header.Get("Cache-Control"))
	info, err := wire.ReadInfo(body)
	require.NoError(p.t, err)
	return info
}

func TestOpenIsTheDefault(t *testing.T) {
	p := startAsUsersDo(t, "--db", database(t))
	info := p.info()
	require.Equal(t, wire.Open, info.Mode)
	require.NotZero(t, info.Unclaimed.MaxBytes)
	require.Contains(t, info.Extensions, wire.PolicyExtension)
	requireDelivery(t, p.network())
	a, stranger := relaytest.NewNode("a"), relaytest.NewNode("stranger")
	large := a.Transaction(stranger.ServerName, "large", 20, 60_000)
	requireStatus(t, http.StatusInsufficientStorage, put(t, p.network(), a, large))
	_, err := get(t, p.network(), stranger, 0)
	require.NoError(t, err)
	require.NoError(t, put(t, p.network(), a, large), "its mailbox is claimed now")
}

// requirePolicies checks that a server's policy is taken, which denies mail of another.
func requirePolicies(t *testing.T, p *program, owner *relaytest.Node) {
	t.Helper()
	caller, err := client.NewCaller(client.CallerConfig{Identity: owner.SigningIdentity, Transport: p.network()})
	require.NoError(t, err)
	state, err := caller.Mailbox(t.Context(), relayName)
	require.NoError(t, err)
	enemy := relaytest.NewNode("enemy")
	require.NoError(t, caller.SetMailboxPolicy(t.Context(), relayName, wire.MailboxPolicy{
		Mailbox: state.Mailbox, Seq: 1, Deny: []spec.ServerName{enemy.ServerName},
	}))
	requireStatus(t, http.StatusForbidden, put(t, p.network(), enemy, enemy.Transaction(owner.ServerName, "t", 1, 300)))
}

func TestOwnersInTheModeAny(t *testing.T) {
	requirePolicies(t, startAsUsersDo(t, "--db", inMemory, "--mode", anyone), relaytest.NewNode("b"))
}

func TestClosedByFile(t *testing.T) {
	a, b, c := relaytest.NewNode("a"), relaytest.NewNode("b"), relaytest.NewNode("c")
	file := filepath.Join(t.TempDir(), "list")
	list := func(servers ...spec.ServerName) {
		require.NoError(t, os.WriteFile(file, fmt.Appendln(nil, strings.ReplaceAll(strings.Trim(fmt.Sprint(servers), "[]"), " ", "\n")), 0o600))
	}
	list(b.ServerName)
	p := startAsUsersDo(t, "--db", inMemory, "--for-file", file)
	require.Equal(t, wire.Closed, p.info().Mode)
	requirePolicies(t, p, b)
	require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, "t", 1, 300)))
	requireStatus(t, http.StatusForbidden, put(t, p.network(), a, a.Transaction(c.ServerName, "t", 1, 300)))

	reload := func(said string) {
		before := strings.Count(p.logged(), said)
		require.NoError(t, p.command.Process.Signal(syscall.SIGHUP))
		require.Eventually(t, func() bool { return strings.Count(p.logged(), said) > before }, patience, 10*time.Millisecond)
	}
	list(c.ServerName)
	reload("read the list of servers again")
	require.NoError(t, put(t, p.network(), a, a.Transaction(c.ServerName, "t", 1, 300)))
	requireStatus(t, http.StatusForbidden, put(t, p.network(), a, a.Transaction(b.ServerName, "u", 1, 300)))

	list(c.ServerName, "in_valid")
	reload("the list of servers stays as it was")
	require.NoError(t, put(t, p.network(), a, a.Transaction(c.ServerName, "u", 1, 300)))
}

// Without a list a SIGHUP, as `systemctl reload` sends it, changes nothing.
func TestHangUpWithoutList(t *testing.T) {
	p := start(t, "--db", inMemory)
	p.signal(syscall.SIGHUP)
	require.Eventually(t, func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return strings.Contains(p.logged(), "the list of servers stays as it was")
		}
	}, patience, 10*time.Millisecond)
	p.stop() // which fails if it has ended
}

func TestInvites(t *testing.T) {
	a, b, c := relaytest.NewNode("a"), relaytest.NewNode("b"), relaytest.NewNode("c")
	file, db := filepath.Join(t.TempDir(), "invite.key"), database(t)
	status, stdout, stderr := runTool(t, "invite", "--invite-key", file, "--until", "2999-12-31")
	require.Equal(t, 0, status, stderr)
	require.True(t, strings.HasPrefix(stdout, "1-29991231-"), stdout)
	claim := func(p *program, node *relaytest.Node) error {
		caller, err := client.NewCaller(client.CallerConfig{Identity: node.SigningIdentity, Transport: p.network()})
		require.NoError(t, err)
		return caller.Claim(t.Context(), relayName, stdout)
	}
	for _, wrong := range [][]string{{"--servers", "0"}, {"--servers", "5000"}, {"--until", "tomorrow"}, {"--name", "relay"}} {
		status, _, _ := runTool(t, append(wrong, "invite", "--invite-key", file)...)
		require.NotEqual(t, 0, status)
	}
	for i := range 2 {
		p := startAsUsersDo(t, "--db", db, "--mode", "invite", "--invite-key", file)
		require.Equal(t, wire.Invite, p.info().Mode)
		if i == 0 {
			requireStatus(t, http.StatusForbidden, put(t, p.network(), a, a.Transaction(b.ServerName, "t", 1, 300)))
		}
		require.NoError(t, claim(p, b))
		require.ErrorContains(t, claim(p, c), "used up")
		require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, "t", 1, 300)))
		p.stop()
	}
}

// Shares are by the address that a proxy names, and only a proxy.
func TestProxies(t *testing.T) {
	p := startAsUsersDo(t, "--db", inMemory, "--proxies", "127.0.0.1", "--max-requests", "1")
	direct := startAsUsersDo(t, "--db", inMemory, "--proxies", "10.0.0.0/8", "--max-requests", "1")
	ask := func(p *program, client string) int {
		request, err := http.NewRequest(http.MethodGet, "http://"+p.address+wire.InfoURI, nil)
		require.NoError(t, err)
		request.Header.Set("X-Forwarded-For", client)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	refused := func(p *program, address func(i int) string) bool {
		for i := range 150 {
			if ask(p, address(i)) == http.StatusTooManyRequests {
				return true // each further one comes later
			}
		}
		return false
	}
	each := func(i int) string { return fmt.Sprint("192.0.2.", i) }
	one := func(int) string { return "198.51.100.1" }
	require.False(t, refused(p, each))
	require.True(t, refused(p, one))
	require.True(t, refused(direct, each), "these are all from loopback")
}

// The log of broken connections is bounded.
func TestErrorLog(t *testing.T) {
	var log strings.Builder
	failures := newErrorLog(slog.New(slog.NewTextHandler(&log, nil)))
	logger := failures.logger()
	for i := range 5030 {
		logger.Printf("http: TLS handshake error from 192.0.2.%d:%d: client sent an HTTP request to an HTTPS server", i%3, 1000+i)
		logger.Printf("http: TLS handshake error from [2a01:db8::%x]:%d: EOF", i%3, 1000+i)
	}
	for i := range 7 {
		failures.refuse(bounded.TooSoon, netip.MustParseAddr(fmt.Sprintf("2a01:db8:0:1::%x", i)))
	}
	failures.close()
	registry, counts := prometheus.NewRegistry(), make(map[string]float64)
	registry.MustRegister(failures.refused)
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, one := range families[0].GetMetric() {
		counts[one.GetLabel()[0].GetValue()] = one.GetCounter().GetValue()
	}
	require.Equal(t, map[string]float64{"handshake": 2 * 5030, "too_soon": 7, "too_many": 0}, counts)
	require.Contains(t, log.String(), `too_soon=6`)
	require.Contains(t, log.String(), `address=2a01:db8:0:1::/64`)
	require.Equal(t, 4, strings.Count(log.String(), "\n"), log.String())
	require.Contains(t, log.String(), `client sent an HTTP request to an HTTPS server"=5029`)
	require.Contains(t, log.String(), "192.0.2.1 (")
}

// The offers of a client make no kind of their own, and no long line. A panic has its stack.
func TestErrorLogOfOffers(t *testing.T) {
	var log strings.Builder
	failures := newErrorLog(slog.New(slog.NewTextHandler(&log, nil)))
	for i := range 100 {
		failures.logger().Printf("http: TLS handshake error from 192.0.2.1:1: tls: client requested unsupported application protocols ([%q])", strings.Repeat("x", 60_000)+strconv.Itoa(i))
		failures.logger().Printf("http: TLS handshake error from 192.0.2.1:1: tls: client offered only unsupported versions: [%x]", i)
	}
	failures.close()
	require.Equal(t, 3, strings.Count(log.String(), "\n"))
	require.Less(t, log.Len(), 3000)

	failures = newErrorLog(slog.New(slog.NewTextHandler(&log, nil)))
	failures.logger().Printf("http: panic serving 192.0.2.1:1: oh\ngoroutine 7 [running]:\n%s", strings.Repeat("x", 3000))
	failures.close()
	require.Contains(t, log.String(), "oh")
	require.Contains(t, log.String(), strings.Repeat("x", 3000))
}

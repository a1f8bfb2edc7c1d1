//go:build unix

package main

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// startWithFiles starts the program with that limit of open files.
func startWithFiles(t *testing.T, files int, args ...string) *program {
	t.Helper()
	script := `ulimit -n "$1" && shift && exec "$@"`
	own := append([]string{os.Args[0], "serve", "--listen", "127.0.0.1:0", "--name", string(relayName)}, args...)
	c := exec.Command("sh", append([]string{"-c", script, "sh", strconv.Itoa(files)}, own...)...)
	c.Env = append(os.Environ(), asProgram+"=1")
	c.Dir = t.TempDir()
	p := launchCommand(t, c)
	p.waitReady()
	return p
}

// metric asks the program for a metric.
func (p *program) metric(name string) float64 {
	p.t.Helper()
	response, err := http.Get("http://" + p.metrics + "/metrics")
	require.NoError(p.t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	require.NoError(p.t, response.Body.Close())
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(string(body))
	require.NotNil(p.t, found, "%s", body)
	value, err := strconv.ParseFloat(found[1], 64)
	require.NoError(p.t, err)
	return value
}

// TestFewOpenFiles: with a limit of 256 open files, more connections than that, each with
// half a header, leave files for the store and the metrics, and places for others.
func TestFewOpenFiles(t *testing.T) {
	p := startWithFiles(t, 256, "--db", "relay.db", "--metrics", "127.0.0.1:0")
	for range 400 {
		c, err := net.Dial("tcp", p.address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost:")) // it may be closed by now
	}
	requireDelivery(t, p.network())
	open := p.metric("relay_connections")
	assert.LessOrEqual(t, open, float64((256-64)/2), "half of those that files allow: at loopback nobody can be told apart")
	assert.Less(t, p.metric("process_open_fds"), 256.0-32)
	assert.NotContains(t, p.logged(), "too many open files")
}

// TestManyWaitsWithFewFiles: nor do receivers that wait under made-up names. Each that
// must make place is answered as if its time were over.
func TestManyWaitsWithFewFiles(t *testing.T) {
	p := startWithFiles(t, 256, "--db", "relay.db", "--metrics", "127.0.0.1:0")
	answered := make(chan string, 300)
	for i := range 150 {
		c, err := net.Dial("tcp", p.address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		node := relaytest.NewNode("waits" + strconv.Itoa(i))
		uri := wire.RelayTxnURI(relaytest.User(node.ServerName)) + "?limit=1&timeout=60000"
		request, err := node.Request(http.MethodGet, relayName, uri, fclient.RelayEntry{})
		require.NoError(t, err)
		go func() {
			_ = request.Write(c) // it may be closed by now
			read, _ := io.ReadAll(c)
			answered <- string(read)
		}()
	}
	require.Eventually(t, func() bool { return p.metric("relay_waiting") == 80 }, patience, 10*time.Millisecond)
	requireDelivery(t, p.network())
	p.signal(os.Interrupt)
	empty := 0
	for range 150 {
		if strings.Contains(<-answered, `"entries_queued":false`) {
			empty++
		}
	}
	require.GreaterOrEqual(t, empty, 80)
}

// TestStreamsAreBounded reads the settings that the server grants an HTTP/2 connection.
func TestStreamsAreBounded(t *testing.T) {
	cert, key, pool := certificate(t)
	p := start(t, "--db", database(t), "--tls-cert", cert, "--tls-key", key)
	c, err := tls.Dial("tcp", p.address, &tls.Config{RootCAs: pool, ServerName: "relay.example", NextProtos: []string{"h2"}})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	_, err = c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	require.NoError(t, err)
	header := make([]byte, 9)
	_, err = io.ReadFull(c, header)
	require.NoError(t, err)
	require.EqualValues(t, 4, header[3], "SETTINGS")
	payload := make([]byte, binary.BigEndian.Uint32(append([]byte{0}, header[:3]...)))
	_, err = io.ReadFull(c, payload)
	require.NoError(t, err)
	settings := make(map[uint16]uint32)
	for ; len(payload) >= 6; payload = payload[6:] {
		settings[binary.BigEndian.Uint16(payload)] = binary.BigEndian.Uint32(payload[2:])
	}
	const maxConcurrentStreams, initialWindowSize, maxHeaderListSize = 3, 4, 6
	assert.EqualValues(t, maxStreams, settings[maxConcurrentStreams])
	assert.EqualValues(t, streamBuffer, settings[initialWindowSize])
	assert.LessOrEqual(t, settings[maxHeaderListSize], uint32(maxHeader+4096))
}

// TestHTTP2IsBounded: connections over those of an address speak HTTP/1.1, and others are good
// for requests as before.
func TestHTTP2IsBounded(t *testing.T) {
	cert, key, pool := certificate(t)
	p := start(t, "--db", database(t), "--tls-cert", cert, "--tls-key", key)
	config := &tls.Config{RootCAs: pool, ServerName: "relay.example", NextProtos: []string{"h2", "http/1.1"}}
	got := make(map[string]int)
	for range 512/8 + 1 {
		c, err := tls.Dial("tcp", p.address, config)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		got[c.ConnectionState().NegotiatedProtocol]++
	}
	require.Equal(t, map[string]int{"h2": 64, "http/1.1": 1}, got)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	response, err := client.Get("https://" + p.address + wire.InfoURI)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, 1, response.ProtoMajor)
}

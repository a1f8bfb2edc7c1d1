//go:build unix

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/freeport"
	"github.com/matrixrelay/relay/relaytest"
)

// natsNode writes the configuration of one of the servers whose routes have
// these ports; its own are client and routes[n].
func natsNode(t *testing.T, client, n int, routes []int) (file string) {
	t.Helper()
	dir := t.TempDir()
	config := fmt.Sprintf("server_name: n%d\nlisten: \"127.0.0.1:%d\"\njetstream { store_dir: %q }\n", n, client, filepath.Join(dir, "js"))
	if len(routes) > 0 {
		var all []string
		for _, port := range routes {
			all = append(all, fmt.Sprintf("\"nats://127.0.0.1:%d\"", port))
		}
		config += fmt.Sprintf("cluster { name: relays, listen: \"127.0.0.1:%d\", routes: [%s] }\n", routes[n], strings.Join(all, ", "))
	}
	file = filepath.Join(dir, "nats.conf")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	return file
}

// natsCluster returns the arguments of three relays that have the servers of
// their database in them.
func natsCluster(t *testing.T) (arguments [][]string) {
	ports := freeport.Find(t, 6)
	for i := range 3 {
		arguments = append(arguments, []string{
			"--nats-server", natsNode(t, ports[i], i, ports[3:]), "--db", fmt.Sprintf("nats://me:secret@127.0.0.1:%d", ports[i]),
		})
	}
	return arguments
}

// TestNATS has three programs that are also the three servers that they keep
// mail in: mail that one takes in another hands out, and any of them may be killed.
func TestNATS(t *testing.T) {
	arguments := natsCluster(t)
	var programs [3]*program
	for i := range programs {
		arguments[i] = append(arguments[i], "--listen", "127.0.0.1:0", "--name", string(relayName))
		programs[i] = launch(t, "", arguments[i]...) // each waits for another
	}
	for _, p := range programs {
		p.waitReady()
		require.NotContains(t, p.logged(), "secret")
	}
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	sent := a.Transaction(b.ServerName, "t1", 2, 500)
	require.NoError(t, put(t, programs[0].network(), a, sent))
	require.NoError(t, put(t, programs[1].network(), a, sent), "a copy")
	require.NoError(t, put(t, programs[1].network(), a, a.Transaction(b.ServerName, "t2", 1, 500)))
	programs[0].kill()

	got, err := get(t, programs[2].network(), b, 0)
	require.NoError(t, err)
	require.Len(t, got.Transaction.PDUs, 2)
	got, err = get(t, programs[1].network(), b, got.EntryID)
	require.NoError(t, err)
	require.Len(t, got.Transaction.PDUs, 1)
	again := startIn(t, "", arguments[0]...)
	programs[1].stop()
	got, err = get(t, again.network(), b, got.EntryID)
	require.NoError(t, err)
	require.False(t, got.EntriesQueued)
	again.stop()
}

// TestNATSAlone keeps mail in one server, which is killed with the program.
func TestNATSAlone(t *testing.T) {
	port := freeport.Find(t, 1)[0]
	arguments := []string{
		"--nats-server", natsNode(t, port, 0, nil), "--db", fmt.Sprintf("nats://127.0.0.1:%d", port), "--nats-max", "1MiB",
	}
	p := start(t, arguments...)
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	require.NoError(t, put(t, p.network(), a, a.Transaction(b.ServerName, "t1", 2, 500)))
	p.kill()
	p = start(t, arguments...)
	got, err := get(t, p.network(), b, 0)
	require.NoError(t, err)
	require.Len(t, got.Transaction.PDUs, 2)
	require.Error(t, put(t, p.network(), a, a.Transaction(b.ServerName, "t2", 1, 1<<20)), "it is larger than the stream")
	got, err = get(t, p.network(), b, got.EntryID)
	require.NoError(t, err)
	require.False(t, got.EntriesQueued)
	p.stop()
}

// TestMoveToNATS is TestMove to NATS servers.
func TestMoveToNATS(t *testing.T) { testMoveElsewhere(t, fileOf, natsPlace) }

// TestMoveFromNATS goes the other way.
func TestMoveFromNATS(t *testing.T) { testMoveElsewhere(t, natsPlace, fileOf) }

func natsPlace(t *testing.T) place {
	port := freeport.Find(t, 1)[0]
	return place{db: fmt.Sprintf("nats://127.0.0.1:%d", port), with: []string{"--nats-server", natsNode(t, port, 0, nil)}}
}

func TestNATSFails(t *testing.T) {
	noJetStream := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(noJetStream, []byte("listen: \"127.0.0.1:-1\"\n"), 0o600))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	port := taken.Addr().(*net.TCPAddr).Port
	ownLog := natsNode(t, port, 0, nil)
	config, err := os.ReadFile(ownLog)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(ownLog, fmt.Appendf(config, "log_file: %q\n", filepath.Join(t.TempDir(), "its.log")), 0o600))
	for _, of := range []struct {
		says      string
		status    int
		arguments []string
	}{
		{"jetstream: open", 1, []string{"--db", "nats://x:secret@127.0.0.1:1,nats://secret@127.0.0.1:2"}},
		{"nonexistent", 1, []string{"--db", "nats://127.0.0.1:1", "--nats-creds", "/nonexistent"}},
		{"nonexistent", 1, []string{"--db", "nats://127.0.0.1:1", "--nats-server", "/nonexistent"}},
		{"doesn't enable jetstream", 1, []string{"--db", "nats://127.0.0.1:1", "--nats-server", noJetStream}},
		{"address already in use", 1, []string{"--db", "nats://127.0.0.1:1", "--nats-server", natsNode(t, port, 0, nil)}},
		{"its.log", 1, []string{"--db", "nats://127.0.0.1:1", "--nats-server", ownLog}},
		{"need a nats:// database", 2, []string{"--nats-server", noJetStream}},
	} {
		status, _, stderr := runToEnd(t, append([]string{"--name", "relay", "--listen", "127.0.0.1:0"}, of.arguments...)...)
		require.Equal(t, of.status, status, stderr)
		require.Contains(t, stderr, of.says)
		require.NotContains(t, stderr, "secret")
	}
}

// TestStopWhileStarting stops a program that waits for the rest of its cluster.
func TestStopWhileStarting(t *testing.T) {
	arguments := append(natsCluster(t)[0], "--listen", "127.0.0.1:0", "--name", string(relayName))
	p := launch(t, "", arguments...)
	require.Eventually(t, func() bool { return strings.Contains(p.logged(), "nats: ") }, patience, 10*time.Millisecond)
	p.stop()
	require.Contains(t, p.logged(), "before it listened")
}

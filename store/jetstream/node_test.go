//go:build unix

package jetstream

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/freeport"
)

// nodeVariable makes this test binary a server and has its options, so that to kill
// a node is to kill a process.
const nodeVariable = "RELAY_JETSTREAM_NODE"

func TestMain(m *testing.M) {
	if said := os.Getenv(nodeVariable); said != "" {
		if err := runNode(said); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// nodeOptions are the options of a node.
type nodeOptions struct {
	Name         string
	Dir          string
	Client, Peer int   // ports that it listens on
	Way          int   // the port that others take to it, if they are clients,
	Ways         []int // and those that it takes to the other nodes
}

func runNode(said string) error {
	var n nodeOptions
	if err := json.Unmarshal([]byte(said), &n); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: n.Name, Host: "127.0.0.1", Port: n.Client, JetStream: true, StoreDir: n.Dir,
		LogFile: filepath.Join(n.Dir, "log"), ClientAdvertise: fmt.Sprint("127.0.0.1:", n.Way),
	}
	if len(n.Ways) > 0 { // nodes tell each other an address that leads nowhere, so that there's no other way
		o.Cluster = server.ClusterOpts{Name: "relays", Host: "127.0.0.1", Port: n.Peer, Advertise: "127.0.0.1:1"}
		o.Routes = routesTo(n.Ways)
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	go func() { // the node ends with the test, however that ends
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	s.WaitForShutdown()
	return nil
}

// A node is a server in a process of its own.
type node struct {
	nodeOptions
	cmd    *exec.Cmd
	client *gate   // clients come through this,
	peers  []*gate // nodes through these, in both directions
}

func (n *node) start(t *testing.T) {
	t.Helper()
	said, err := json.Marshal(n.nodeOptions)
	require.NoError(t, err)
	n.cmd = exec.Command(os.Args[0])
	n.cmd.Env = append(os.Environ(), nodeVariable+"="+string(said))
	n.cmd.Stderr = os.Stderr
	_, err = n.cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, n.cmd.Start())
}

func (n *node) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	require.NoError(t, n.cmd.Process.Signal(signal))
}

// kill ends the process as a crash does.
func (n *node) kill(t *testing.T) {
	t.Helper()
	n.signal(t, syscall.SIGKILL)
	_ = n.cmd.Wait() // it was killed, and says so
}

// terminate ends the process as an administrator does.
func (n *node) terminate(t *testing.T) {
	t.Helper()
	n.signal(t, syscall.SIGTERM)
	patience := time.AfterFunc(patience, func() { _ = n.cmd.Process.Kill() })
	_ = n.cmd.Wait() // one that has only begun to start says that it was terminated
	require.True(t, patience.Stop(), "a node that was terminated hasn't ended")
}

// A cluster is nodes that keep a stream together.
type cluster []*node

// startCluster starts nodes that keep their files below the test's directory.
func startCluster(t *testing.T, size int) cluster {
	t.Helper()
	ports := freeport.Find(t, 2*size)
	nodes := make(cluster, size)
	for i := range nodes {
		client := newGate(t, ports[i])
		nodes[i] = &node{client: client, nodeOptions: nodeOptions{
			Name: fmt.Sprint("n", i), Dir: t.TempDir(), Client: ports[i], Peer: ports[size+i], Way: client.port(),
		}}
	}
	for _, from := range nodes {
		for _, to := range nodes {
			if from != to {
				g := newGate(t, to.Peer)
				from.Ways = append(from.Ways, g.port())
				from.peers, to.peers = append(from.peers, g), append(to.peers, g)
			}
		}
	}
	for _, n := range nodes {
		n.start(t)
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			_ = n.cmd.Process.Signal(syscall.SIGCONT)
			_ = n.cmd.Process.Kill()
			_ = n.cmd.Wait()
			if t.Failed() {
				log, err := os.ReadFile(filepath.Join(n.Dir, "log"))
				t.Logf("%s said: ...%s (%v)", n.Name, log[max(0, len(log)-20_000):], err)
			}
		}
	})
	return nodes
}

func (c cluster) url() string {
	var urls []string
	for _, n := range c {
		urls = append(urls, fmt.Sprint("nats://127.0.0.1:", n.Way))
	}
	return strings.Join(urls, ",")
}

// open opens a store as soon as the nodes have found together.
func (c cluster) open(t *testing.T, o Options) *Store {
	t.Helper()
	o.URL = c.url()
	end := time.Now().Add(patience)
	for {
		s, err := Open(t.Context(), o)
		if err == nil {
			return s
		}
		require.True(t, time.Now().Before(end), "%v", err)
		time.Sleep(100 * time.Millisecond)
	}
}

// leader returns the node that leads the stream, and the others.
func (c cluster) leader(t *testing.T, s *Store) (leader *node, followers cluster) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		stream, err := s.engine.js.Stream(t.Context(), s.options.Stream)
		if err == nil && stream.CachedInfo().Cluster.Leader != "" {
			for _, n := range c {
				if n.Name == stream.CachedInfo().Cluster.Leader {
					leader = n
				} else {
					followers = append(followers, n)
				}
			}
			return leader, followers
		}
		require.True(t, time.Now().Before(end), "%v", err)
		time.Sleep(100 * time.Millisecond)
	}
}

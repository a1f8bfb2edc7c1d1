package main

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asNode in the environment makes the test program be the program.
const asNode = "RELAY_TEST_AS_NODE"

// patience is for things that take seconds on a machine that has nothing else to do.
const patience = 3 * time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(asNode) == "" {
		status := m.Run()
		_ = os.RemoveAll(standaloneDir) // below the system's directory for such things
		os.Exit(status)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends when the test does, however it ends
		os.Exit(99)
	}()
	main()
}

// A running is a program that a test has started, and which ends with it.
type running struct {
	t       *testing.T
	command *exec.Cmd
	ended   chan struct{}

	mu  sync.Mutex
	log strings.Builder
}

// run starts a program.
func run(t *testing.T, command *exec.Cmd) *running {
	r := &running{t: t, command: command, ended: make(chan struct{})}
	_, err := command.StdinPipe()
	require.NoError(t, err)
	out, in, err := os.Pipe()
	require.NoError(t, err)
	command.Stdout, command.Stderr = in, in
	require.NoError(t, command.Start())
	require.NoError(t, in.Close())
	go func() {
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadString('\n')
			r.mu.Lock()
			r.log.WriteString(line)
			r.mu.Unlock()
			if err != nil {
				_ = command.Wait()
				close(r.ended)
				return
			}
		}
	}()
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", command.Args, r.logged())
		}
	})
	return r
}

func (r *running) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.log.String()
	return text[max(0, len(text)-20_000):]
}

// kill ends it as a power cut does.
func (r *running) kill() {
	_ = r.command.Process.Kill() // it may have ended
	<-r.ended
}

// stop ends it in the orderly way.
func (r *running) stop() {
	r.t.Helper()
	require.NoError(r.t, r.command.Process.Signal(syscall.SIGTERM))
	select {
	case <-r.ended:
	case <-time.After(patience):
		r.t.Fatal("it doesn't stop")
	}
	require.Zero(r.t, r.command.ProcessState.ExitCode(), r.logged())
}

// await waits until it is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain: " + what)
		}
	}
}

// A world is a network with the servers of a test.
type world struct {
	t       *testing.T
	dir     string
	network network
}

func newWorld(t *testing.T) *world {
	dir, err := os.MkdirTemp("", "relay") // sockets need short paths
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	w := &world{t: t, dir: dir, network: network(filepath.Join(dir, "network"))}
	require.NoError(t, os.Mkdir(string(w.network), 0o700))
	return w
}

// start starts a server of the network and waits until it answers.
func (w *world) start(seed string, args ...string) *running {
	return w.startIn(w.network, seed, args...)
}

func (w *world) startIn(n network, seed string, args ...string) *running {
	w.t.Helper()
	dir := filepath.Join(w.dir, seed)
	require.NoError(w.t, os.MkdirAll(dir, 0o700))
	c := exec.Command(os.Args[0], append([]string{"-dir", dir, "-key", seed, "-network", string(n)}, args...)...)
	c.Env = append(os.Environ(), asNode+"=1")
	r := run(w.t, c)
	await(w.t, seed+" starts", func() bool {
		select {
		case <-r.ended:
			w.t.Fatalf("%s ended:\n%s", seed, r.logged())
		default:
		}
		request, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "matrix://"+string(nameOf(seed))+"/_matrix/client/versions", nil)
		require.NoError(w.t, err)
		response, err := n.transport().RoundTrip(request)
		if err != nil {
			return false
		}
		require.NoError(w.t, response.Body.Close())
		return response.StatusCode == http.StatusOK
	})
	return r
}

var (
	listening     = regexp.MustCompile(`msg=listening .*\baddress=(\S+)`)
	standaloneDir string // that of the program, empty until it is made

	// standalone makes the program.
	standalone = sync.OnceValues(func() (path string, err error) {
		if standaloneDir, err = os.MkdirTemp("", "standalone"); err != nil {
			return "", err
		}
		c := exec.Command("go", "build", "-o", standaloneDir, "./cmd/relay")
		c.Dir, c.Env = filepath.Join("..", ".."), append(os.Environ(), "GOWORK=")
		c.Stderr = os.Stderr
		return filepath.Join(standaloneDir, "relay"), c.Run()
	})
)

// startStandalone starts the relay that is a program of its own, and returns its
// address.
func (w *world) startStandalone(seed string) (r *running, address string) {
	w.t.Helper()
	program, err := standalone()
	require.NoError(w.t, err)
	r = run(w.t, exec.Command(program, "serve", "--listen", "127.0.0.1:0", "--name", string(nameOf(seed)), "--db", filepath.Join(w.dir, seed+".db")))
	await(w.t, "the standalone relay listens", func() bool {
		found := listening.FindStringSubmatch(r.logged())
		if found == nil {
			return false
		}
		address = found[1]
		return true
	})
	return r, address
}

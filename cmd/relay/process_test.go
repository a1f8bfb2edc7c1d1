package main

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
)

// asProgram in the environment makes the test program be one of programs.
const asProgram = "RELAY_TEST_AS_PROGRAM"

// patience is for things that take no time to speak of on a machine that has nothing
// else to do.
const patience = 2 * time.Minute

// relayName is the name of the relays in these tests.
const relayName spec.ServerName = "relay"

func TestMain(m *testing.M) {
	program := programs[os.Getenv(asProgram)]
	if program == nil {
		os.Exit(m.Run())
	}
	if os.Getenv(asProgram) != withInput {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // ends when the test does, however it ends
			os.Exit(99)
		}()
	}
	program()
}

// withInput is the program with an input of its own, so it must end by itself.
const withInput = "with input"

// programs are those that the test program can be instead.
var programs = map[string]func(){"1": main, withInput: main}

// command runs the program without the limits that are for strangers: tests of other
// things leave more mail than one stranger may.
func command(args ...string) *exec.Cmd { return withLimits(append(slices.Clone(noLimits), args...)...) }

// withLimits runs the program as its users do.
func withLimits(args ...string) *exec.Cmd {
	return commandOf(os.Args[0], "1", append([]string{"serve"}, args...))
}

var noLimits = []string{"--mode", anyone, "--max-requests", none, "--max-traffic", none, "--max-stored", none}

// commandOf runs a test program as one of the programs.
func commandOf(path, program string, args []string) *exec.Cmd {
	c := exec.Command(path, args...)
	c.Env = append(os.Environ(), asProgram+"="+program)
	return c
}

// A program is the running program.
type program struct {
	t       testing.TB
	command *exec.Cmd
	stdin   io.Closer
	address string
	metrics string
	ready   chan struct{}
	ended   chan struct{}

	mu  sync.Mutex
	log strings.Builder
}

var (
	listening   = regexp.MustCompile(`msg=listening .*\baddress=(\S+)`)
	withMetrics = regexp.MustCompile(`msg=listening .*\bmetrics=(\S+)`)
)

// start runs the program and waits until it listens, at a free port.
func start(t testing.TB, args ...string) *program {
	t.Helper()
	return startIn(t, "", append([]string{"--listen", "127.0.0.1:0", "--name", string(relayName)}, args...)...)
}

// startIn does that in a directory, with these arguments only.
func startIn(t testing.TB, directory string, args ...string) *program {
	t.Helper()
	p := launch(t, directory, args...)
	p.waitReady()
	return p
}

func (p *program) waitReady() {
	p.t.Helper()
	select {
	case <-p.ready:
	case <-p.ended:
		p.t.Fatalf("the program ended:\n%s", p.logged())
	case <-time.After(patience):
		p.t.Fatalf("the program doesn't listen:\n%s", p.logged())
	}
}

// launch runs the program and doesn't wait for it.
func launch(t testing.TB, directory string, args ...string) *program {
	t.Helper()
	c := command(args...)
	c.Dir = directory
	return launchCommand(t, c)
}

func launchCommand(t testing.TB, c *exec.Cmd) *program {
	t.Helper()
	p := &program{t: t, command: c, ready: make(chan struct{}), ended: make(chan struct{})}
	var err error
	p.stdin, err = p.command.StdinPipe()
	require.NoError(t, err)
	stderr, err := p.command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.command.Start())
	t.Cleanup(p.kill)
	go p.follow(stderr)
	return p
}

// follow reads the program's log, and waits for its end.
func (p *program) follow(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		p.mu.Lock()
		p.log.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
		found := listening.FindStringSubmatch(lines.Text())
		if found == nil {
			continue
		}
		p.address = found[1]
		if found := withMetrics.FindStringSubmatch(lines.Text()); found != nil {
			p.metrics = found[1]
		}
		close(p.ready) // a second such line would panic: there must be one
	}
	_ = p.command.Wait() // the state says how it ended
	close(p.ended)
}

func (p *program) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// kill ends the program with SIGKILL.
func (p *program) kill() {
	_ = p.command.Process.Kill() // it may have ended
	<-p.ended
}

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if runtime.GOOS == "windows" {
		p.t.Skip("there are no signals")
	}
	require.NoError(p.t, p.command.Process.Signal(s))
}

// status waits for the end of the program and returns its exit status, -1 if a
// signal ended it.
func (p *program) status() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("the program doesn't end:\n%s", p.logged())
	}
	return p.command.ProcessState.ExitCode()
}

// stop ends the program in the orderly way.
func (p *program) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	require.Equal(p.t, 0, p.status(), p.logged())
}

// network leads to the program.
func (p *program) network() *relaytest.Network {
	n := relaytest.NewNetwork()
	n.Set(relayName, relaytest.Host{Address: p.address})
	p.t.Cleanup(n.CloseIdleConnections)
	return n
}

// put leaves a transaction with the unmodified client of nodes.
func put(t testing.TB, transport http.RoundTripper, from *relaytest.Node, transaction gomatrixserverlib.Transaction) error {
	_, err := from.Federation(transport).P2PSendTransactionToRelay(
		t.Context(), relaytest.User(transaction.Destination), transaction, relayName)
	return err
}

// get fetches the next transaction, likewise.
func get(t testing.TB, transport http.RoundTripper, to *relaytest.Node, acknowledge int64) (fclient.RespGetRelayTransaction, error) {
	return to.Federation(transport).P2PGetTransactionFromRelay(
		t.Context(), relaytest.User(to.ServerName), fclient.RelayEntry{EntryID: acknowledge}, relayName)
}

// runToEnd runs a relay that doesn't get to listen.
func runToEnd(t testing.TB, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return runTool(t, append([]string{"serve"}, args...)...)
}

// runTool runs any subcommand, in a folder of its own.
func runTool(t testing.TB, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	c := commandOf(os.Args[0], "1", args)
	c.Dir = t.TempDir()
	stdin, err := c.StdinPipe()
	require.NoError(t, err)
	defer func() { _ = stdin.Close() }() // it has ended by then
	var out, log strings.Builder
	c.Stdout, c.Stderr = &out, &log
	require.NoError(t, c.Start())
	timer := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	defer timer.Stop()
	if err := c.Wait(); err != nil {
		exit := new(exec.ExitError)
		require.True(t, errors.As(err, &exit), err)
	}
	return c.ProcessState.ExitCode(), out.String(), log.String()
}

func database(t testing.TB) string { return filepath.Join(t.TempDir(), "relay.db") }

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/freeport"
	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/relaytest"
)

// shellFences returns the commands of a page.
func shellFences(t *testing.T, path string) (fences []string) {
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	parts := strings.Split(string(page), "\n```sh\n")
	for _, part := range parts[1:] {
		fence, _, closed := strings.Cut(part, "\n```\n")
		require.True(t, closed)
		fences = append(fences, fence)
	}
	return fences
}

// An operatedRelay is one on a machine of its own, as it looks to commands of the page.
type operatedRelay struct {
	*testing.T
	folder  string
	replace *strings.Replacer
	path    string // of programs besides the relay
	listen  string
	metrics string
	options []string // where the database is
	running *program
	input   *os.File // has an end when the test has
}

func newOperated(t *testing.T) *operatedRelay {
	ports := freeport.Find(t, 4)
	address := func(i int) string { return fmt.Sprint("127.0.0.1:", ports[i]) }
	r := &operatedRelay{T: t, folder: t.TempDir(), listen: address(0), metrics: address(1)}
	for _, name := range []string{"lib", "backups", "bin", "home"} {
		require.NoError(t, os.Mkdir(filepath.Join(r.folder, name), 0o700))
	}
	r.replace = strings.NewReplacer("/var/lib/relay", r.folder+"/lib", "/var/backups/relay", r.folder+"/backups", "/usr/local/bin", r.folder+"/bin",
		"127.0.0.1:9002", r.metrics, "127.0.0.1:9003", address(2), "127.0.0.1:9004", address(3))
	input, held, err := os.Pipe()
	require.NoError(t, err)
	r.input, r.path, r.options = input, os.Getenv("PATH"), []string{"--db", r.folder + "/lib/relay.db"}
	t.Cleanup(func() {
		require.NoError(t, input.Close())
		require.NoError(t, held.Close())
	})
	self := command()
	program := fmt.Sprintf("#!/bin/sh\n%s exec %q \"$@\" <&3\n", self.Env[len(self.Env)-1], self.Path) // it ends with its input
	for _, path := range []string{"bin/relay", "home/relay"} {
		require.NoError(t, os.WriteFile(filepath.Join(r.folder, path), []byte(program), 0o700))
	}
	return r
}

func (r *operatedRelay) start() {
	r.running = startIn(r, r.folder+"/lib", append([]string{"--listen", r.listen, "--metrics", r.metrics, "--name", string(relayName)}, r.options...)...)
}

// run runs commands, of which those for the service are the test's to do.
func (r *operatedRelay) run(commands string) (said string) {
	var script []string
	flush := func() {
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		c := exec.CommandContext(ctx, "sh", "-eu", "-c", r.replace.Replace(strings.Join(script, "\n")))
		c.ExtraFiles = []*os.File{r.input}
		c.WaitDelay = time.Second
		c.Dir = r.folder + "/home"
		c.Env = append(os.Environ(), "PATH="+r.folder+"/bin:"+r.path)
		out, err := c.CombinedOutput()
		require.NoError(r, err, "%s\n%s", script, out)
		said, script = said+string(out), nil
	}
	for _, line := range strings.Split(commands, "\n") {
		switch line {
		case "systemctl start relay":
			flush()
			r.start()
		case "systemctl stop relay":
			flush()
			r.running.stop()
		default:
			script = append(script, line)
		}
	}
	flush()
	return said
}

// ownUser stands for the user that systemd gives the service.
const ownUser = 61234

// The commands of docs/operating.md work, one after the other, and no mail is lost.
func TestOperatingPage(t *testing.T) {
	need.Program(t, "curl")
	r := newOperated(t)
	r.start()
	a, b := relaytest.NewNode("a"), relaytest.NewNode("b")
	require.NoError(t, put(t, r.running.network(), a, a.Transaction(b.ServerName, "1", 1, 100)))
	if os.Geteuid() == 0 { // the service has a user of its own, and these commands are root's
		require.NoError(t, os.Chown(r.folder+"/lib/relay.db", ownUser, ownUser))
	}
	var said string
	for _, fence := range shellFences(t, "../../docs/operating.md") {
		said += r.run(fence)
	}
	require.Equal(t, 5, strings.Count(said, "ok\n"), said)
	require.Contains(t, said, "\nrelay_entries 1\n")
	require.Contains(t, said, `relay_refusals_total{reason="full"} 0`)
	got, err := get(t, r.running.network(), b, 0)
	require.NoError(t, err)
	require.True(t, got.EntriesQueued, "after a restore and an upgrade")
	require.FileExists(t, r.folder+"/bin/relay-before")
	if os.Geteuid() == 0 {
		owner, err := exec.Command("stat", "-c", "%u", r.folder+"/lib/relay.db").Output()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintln(ownUser), string(owner), "it can't be opened by the service any more")
	}
	r.running.stop()
}

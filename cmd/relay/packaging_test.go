//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
)

// systemd is told when the relay serves, that it still runs, and when it stops.
func TestSupervisor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer func() { require.NoError(t, socket.Close()) }()
	heard := func() string {
		text := make([]byte, 100)
		require.NoError(t, socket.SetReadDeadline(time.Now().Add(patience)))
		n, err := socket.Read(text)
		require.NoError(t, err)
		return string(text[:n])
	}
	c := withLimits("--listen", "127.0.0.1:0", "--name", "relay", "--db", inMemory)
	c.Env = append(c.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=50000")
	p := launchCommand(t, c)
	require.Equal(t, "READY=1", heard())
	for range 3 {
		require.Equal(t, "WATCHDOG=1", heard())
	}
	p.stop()
	last := heard()
	for last == "WATCHDOG=1" {
		last = heard()
	}
	require.Equal(t, "STOPPING=1", last)

	c = withLimits("--listen", "127.0.0.1:0", "--name", "relay", "--db", inMemory)
	c.Env = append(c.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=soon")
	require.Equal(t, exitFailed, launchCommand(t, c).status())
}

// A socket that systemd hands over takes the place of --listen.
func TestInheritedSocket(t *testing.T) {
	given, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, given.Close()) }()
	file, err := given.(*net.TCPListener).File()
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	run := func(count int) *program {
		script := `export LISTEN_PID=$$ LISTEN_FDS="$1" && shift && exec "$@"`
		c := exec.Command("sh", "-c", script, "sh", fmt.Sprint(count), os.Args[0], "serve", "--listen", "nonsense", "--name", "relay", "--db", inMemory)
		c.Env, c.ExtraFiles = append(os.Environ(), asProgram+"=1"), []*os.File{file}
		return launchCommand(t, c)
	}
	p := run(1)
	p.waitReady()
	require.Equal(t, given.Addr().String(), p.address)
	requireDelivery(t, p.network())
	p.stop()
	p = run(2)
	require.Equal(t, exitFailed, p.status())
	require.Contains(t, p.logged(), "one socket")
}

// systemd takes the units as they are, and finds little that the relay could still do.
func TestUnits(t *testing.T) {
	analyze, dir := need.Program(t, "systemd-analyze"), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "relay.service.d"), 0o700))
	for name, from := range map[string]string{
		"relay.service": "relay.service", "relay.socket": "relay.socket", "relay.service.d/tls.conf": "tls.conf",
		"relay-backup.service": "relay-backup.service", "relay-backup.timer": "relay-backup.timer",
	} {
		unit, err := os.ReadFile(filepath.Join("..", "..", "contrib", from))
		require.NoError(t, err)
		text := strings.Replace(string(unit), "ExecStart=/usr/local/bin/relay", "ExecStart="+os.Args[0], 1)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	unit := filepath.Join(dir, "relay.service")
	out, err := exec.Command(analyze, "verify", "--man=no", unit, filepath.Join(dir, "relay.socket"), filepath.Join(dir, "relay-backup.timer")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out))
	out, err = exec.Command(analyze, "security", "--offline=true", "--threshold=15", "--no-pager", unit).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// The backup of each day is made, and of the old ones the newest stay, but never instead of the new
// one: the clock may have been ahead.
func TestDailyBackup(t *testing.T) {
	text, err := os.ReadFile("../../contrib/relay-backup.service")
	require.NoError(t, err)
	dir, db := t.TempDir(), database(t)
	backups := filepath.Join(dir, "backups", "relay")
	self := commandOf(os.Args[0], "1", nil)
	program := fmt.Sprintf("#!/bin/sh\n%s exec %q \"$@\"\n", self.Env[len(self.Env)-1], self.Path)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "relay"), []byte(program), 0o700))
	as := strings.NewReplacer("/usr/local/bin/relay", filepath.Join(dir, "relay"), "/var/backups", filepath.Join(dir, "backups"),
		"/var/lib/relay/relay.db", db, "$$", "$", "%%", "%")
	run := func(step string) error {
		_, line, found := strings.Cut(string(text), "\n"+step+"=")
		require.True(t, found)
		line, _, _ = strings.Cut(line, "\n")
		c := exec.Command("sh", "-c", as.Replace(line))
		stdin, err := c.StdinPipe() // the program ends with its input
		require.NoError(t, err)
		defer func() { _ = stdin.Close() }() // it has ended by then
		out, err := c.CombinedOutput()
		t.Logf("%s: %s", step, out)
		return err
	}
	p := start(t, "--db", db)
	require.NoError(t, os.MkdirAll(backups, 0o700))
	for i := range 20 {
		require.NoError(t, os.WriteFile(filepath.Join(backups, fmt.Sprintf("relay-2024-01-%02d-030405.db", i+1)), nil, 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(backups, "relay-2024-02-01-030405.db-part"), nil, 0o600))
	require.NoError(t, run("ExecStartPre"))
	require.NoError(t, run("ExecStart"))
	list := func() (names []string) {
		files, err := filepath.Glob(filepath.Join(backups, "*.db*"))
		require.NoError(t, err)
		for _, file := range files {
			if name := filepath.Base(file); !strings.HasSuffix(name, "-lock") { // requireEntries makes one
				names = append(names, name)
			}
		}
		return names
	}
	left := list()
	require.Len(t, left, 14)
	require.Equal(t, "relay-2024-01-08-030405.db", left[0])
	requireEntries(t, filepath.Join(backups, left[13]), 0)
	for i, name := range left {
		require.NoError(t, os.Rename(filepath.Join(backups, name), filepath.Join(backups, fmt.Sprintf("relay-2999-01-%02d-030405.db", i+1))))
	}
	require.NoError(t, run("ExecStart"))
	left = list()
	require.Len(t, left, 14)
	require.Less(t, left[0], "relay-2999")
	requireEntries(t, filepath.Join(backups, left[0]), 0)
	p.stop()
	require.Error(t, run("ExecStart"), "no relay runs")
	require.Equal(t, left, list())
}

// The steps of the image, without a container engine: with its environment the program
// serves, and its health check passes.
func TestContainerfile(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the program")
	}
	text, err := os.ReadFile("../../contrib/Containerfile")
	require.NoError(t, err)
	dir := t.TempDir()
	// These make it static and the same everywhere; without them the build is in the cache.
	const flags = "CGO_ENABLED=0 go build -trimpath "
	require.Contains(t, string(text), flags)
	script := strings.NewReplacer(flags, "go build ", "/out/", dir+"/").Replace(string(text))
	steps := make(map[string]string)
	for line := range strings.Lines(script) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word != "RUN" {
			steps[word] = rest
			continue
		}
		c := exec.Command("sh", "-c", rest)
		c.Dir = filepath.Join("..", "..")
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	relay, data := filepath.Join(dir, "relay"), filepath.Join(dir, "data")
	env := append(os.Environ(), "RELAY_NAME=relay", "RELAY_LISTEN=127.0.0.1:0", "RELAY_DB="+filepath.Join(data, "relay.db"))
	require.Equal(t, "RELAY_LISTEN=:9001 RELAY_DB=/data/relay.db", steps["ENV"])
	require.Equal(t, `["serve"]`, steps["CMD"])
	require.Contains(t, steps["HEALTHCHECK"], `CMD ["/relay", "status", "--alive"]`)
	c := exec.Command(relay, "serve")
	c.Env = env
	p := launchCommand(t, c)
	p.waitReady()
	check := exec.Command(relay, "status", "--alive")
	check.Env = env
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s", out)
	p.stop()
	check = exec.Command(relay, "status", "--alive")
	check.Env = env
	require.Error(t, check.Run())
}

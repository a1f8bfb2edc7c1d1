//go:build unix

package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// credential is the user that the programs run as: they refuse to be root.
func credential(tb testing.TB) *syscall.Credential {
	tb.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(found.Uid, 10, 32)
		require.NoError(tb, err)
		gid, err := strconv.ParseUint(found.Gid, 10, 32)
		require.NoError(tb, err)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	tb.Fatal("there is no user postgres and no nobody")
	return nil
}

// privateDir makes a directory for the programs' files. The test's own
// directory won't do: other users can't get into it.
func privateDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp(parentDir(tb), "relay-pg")
	require.NoError(tb, err)
	if c := credential(tb); c != nil {
		require.NoError(tb, os.Chown(dir, int(c.Uid), int(c.Gid)))
	}
	return dir
}

func command(tb testing.TB, path string, args ...string) *exec.Cmd {
	c := exec.Command(path, args...)
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Credential: credential(tb), Setpgid: true}
	return c
}

// A process is a program that runs until it is ended, or the test program is.
type process struct {
	command *exec.Cmd
	guard   *exec.Cmd
	log     string
	ended   chan struct{}
}

func launch(tb testing.TB, dir, path string, args ...string) *process {
	tb.Helper()
	p := &process{command: command(tb, path, args...), log: filepath.Join(dir, "log"), ended: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(tb, err)
	defer func() { require.NoError(tb, log.Close()) }()
	p.command.Stdout, p.command.Stderr = log, log
	require.NoError(tb, p.command.Start())
	go func() {
		_ = p.command.Wait() // the log says why it ended
		close(p.ended)
	}()
	// The guard's input ends when the test program does, however it ends.
	p.guard = exec.Command("/bin/sh", "-c", fmt.Sprintf("cat >/dev/null; kill -QUIT %d", p.command.Process.Pid))
	p.guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	_, err = p.guard.StdinPipe()
	require.NoError(tb, err)
	require.NoError(tb, p.guard.Start())
	return p
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *process) logged() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// kill ends the process and the children that it has, at one moment as when a
// machine is lost, and waits for them. A child that outlives the process would
// finish commits that wait for a standby, and show them to others.
func (p *process) kill() {
	p.endGuard()
	if p.hasEnded() {
		return
	}
	_ = p.command.Process.Signal(syscall.SIGSTOP) // it starts no more
	awaitStopped(p.command.Process.Pid)
	children := p.children()
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGSTOP) // it may have ended
	}
	for _, pid := range children {
		awaitStopped(pid)
	}
	_ = p.command.Process.Kill()
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.ended
	for _, pid := range children { // a new server refuses to start beside them
		for state, _ := status(pid); state != "" && state != "Z"; state, _ = status(pid) {
			time.Sleep(time.Millisecond)
		}
	}
}

// awaitStopped waits until a process is stopped, where there is /proc: a child
// that it was about to start is there then.
func awaitStopped(pid int) {
	for {
		state, _ := status(pid)
		if strings.Contains("TtZX", state) { // stopped, or ended, or there is none
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// children finds them where there is /proc. Elsewhere they end by themselves
// when they notice.
func (p *process) children() (pids []int) {
	paths, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue
		}
		if _, parent := status(pid); parent == strconv.Itoa(p.command.Process.Pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// status returns the state of a process and its parent, nothing if it is gone.
func status(pid int) (state, parent string) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return "", ""
	}
	return fields[0], fields[1]
}

// quit has the process clean up and end at once, or kills it.
func (p *process) quit() {
	p.endGuard()
	_ = p.command.Process.Signal(syscall.SIGQUIT) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		p.kill()
	}
}

func (p *process) interrupt() error {
	p.endGuard()
	if err := p.command.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	<-p.ended
	return nil
}

func (p *process) endGuard() {
	if p.guard.ProcessState == nil {
		_ = syscall.Kill(-p.guard.Process.Pid, syscall.SIGKILL) // the shell and its cat
		_ = p.guard.Wait()                                      // it was killed
	}
}

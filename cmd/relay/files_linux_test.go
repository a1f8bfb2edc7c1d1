package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
)

// A key and its name are on the disk before anything relies on them: a server whose key is
// lost isn't the same server any more.
func TestKeyOutlivesPowerCut(t *testing.T) {
	strace, folder := need.Program(t, "strace"), t.TempDir()
	traced := filepath.Join(folder, "traced")
	require.NoError(t, os.Mkdir(filepath.Join(folder, "keys"), 0o700))
	key := filepath.Join(folder, "keys", "relay.pem")
	self := commandOf(os.Args[0], "1", []string{"keygen", key})
	c := exec.Command(strace, append([]string{"-f", "-y", "-e", "trace=fsync", "-o", traced}, self.Args...)...)
	c.Env = self.Env
	stdin, err := c.StdinPipe() // it ends with its input
	require.NoError(t, err)
	defer func() { _ = stdin.Close() }() // it has ended by then
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s", out)
	trace, err := os.ReadFile(traced)
	require.NoError(t, err)
	require.Regexp(t, `(?s)fsync\(\d+<`+key+`>.*fsync\(\d+<`+filepath.Dir(key)+`>`, string(trace))
}

// A key that root makes in the relay's folder can be read by the relay, which isn't root.
func TestKeyBelongsToTheFolder(t *testing.T) {
	need.Root(t)
	const owner = 61234
	key := filepath.Join(t.TempDir(), "relay.pem")
	require.NoError(t, os.Chown(filepath.Dir(key), owner, owner))
	tool(t, "keygen", key)
	info, err := os.Stat(key)
	require.NoError(t, err)
	require.EqualValues(t, owner, info.Sys().(*syscall.Stat_t).Uid)
	require.EqualValues(t, 0o600, info.Mode())
}

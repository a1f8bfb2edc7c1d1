package main

import (
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// An input has all bytes and then the end, in pieces of any size.
func TestInput(t *testing.T) {
	whole := strings.Repeat("0123456789", 20_000)
	for _, pieces := range []func(io.Reader) io.Reader{iotest.HalfReader, iotest.DataErrReader} {
		require.NoError(t, iotest.TestReader(&input{ctx: t.Context(), from: pieces(strings.NewReader(whole))}, []byte(whole)))
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in, out := io.Pipe()
	defer func() { _ = out.Close() }()
	_, err := (&input{ctx: ctx, from: in}).Read(make([]byte, 1))
	require.ErrorIs(t, err, context.Canceled)
}

// One signal ends a command that waits for an answer, and nothing is done.
func TestSignalWhileAsking(t *testing.T) {
	db := database(t)
	start(t, "--db", db)
	c := commandOf(os.Args[0], "1", []string{"purge", "--db", db, "--origin", "a.example"})
	stdin, err := c.StdinPipe()
	require.NoError(t, err)
	defer func() { _ = stdin.Close() }() // it has ended by then
	stderr, err := c.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	kill := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	defer kill.Stop()
	_, err = io.ReadFull(stderr, make([]byte, 1)) // it asks
	require.NoError(t, err)
	require.NoError(t, c.Process.Signal(syscall.SIGTERM))
	said, err := io.ReadAll(stderr)
	require.NoError(t, err)
	require.Error(t, c.Wait())
	require.Equal(t, exitFailed, c.ProcessState.ExitCode(), string(said))
}

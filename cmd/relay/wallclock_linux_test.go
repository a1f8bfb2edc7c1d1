package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
)

// clockFile in the environment of a program that withClock has built names the
// file that its wall clock is set by.
const clockFile = "RELAY_TEST_CLOCK"

// Package time as withClock changes it: Now adds the seconds that are in the
// file at that moment. The monotonic reading stays as it is, as it does when the
// clock of a machine is set.
const (
	nowBefore = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	nowAfter  = nowBefore + "\tsec += wallShift()\n"

	shiftSource = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var shift = mapShift()

func mapShift() *int64 {
	path, _ := syscall.Getenv("` + clockFile + `")
	file, err := syscall.Open(path, syscall.O_RDONLY, 0)
	if err != nil {
		return new(int64)
	}
	page, err := syscall.Mmap(file, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("the clock of the test: " + err.Error())
	}
	return (*int64)(unsafe.Pointer(&page[0]))
}

func wallShift() int64 {
	if shift == nil { // another package asks for the time before this is ready
		return 0
	}
	return atomic.LoadInt64(shift)
}
`
)

// withClock builds the test program with such a package time and returns its
// path. The first time takes as long as building everything.
func withClock(t *testing.T) (path string) {
	t.Helper()
	tool, dir := need.Program(t, "go"), t.TempDir()
	root, err := exec.Command(tool, "env", "GOROOT").Output()
	require.NoError(t, err)
	installed := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(installed, "time.go"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(source), nowBefore), "this version of Go reads the clock in another way: nowBefore must follow it")

	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(installed, "time.go"):      write("time.go", strings.Replace(string(source), nowBefore, nowAfter, 1)),
		filepath.Join(installed, "wallshift.go"): write("wallshift.go", shiftSource),
	}})
	require.NoError(t, err)
	path = filepath.Join(dir, "withclock.test")
	build := exec.Command(tool, "test", "-c", "-overlay", write("overlay.json", string(overlay)), "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// A wallClock is the time for the programs that have it.
type wallClock struct {
	t    testing.TB
	file string
}

func newWallClock(t testing.TB) *wallClock {
	c := &wallClock{t: t, file: filepath.Join(t.TempDir(), "clock")}
	c.set(0)
	return c
}

// set makes the clock be so far ahead of the right time, from now on.
func (c *wallClock) set(ahead time.Duration) {
	c.t.Helper()
	file, err := os.OpenFile(c.file, os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(c.t, err)
	var seconds [8]byte
	binary.NativeEndian.PutUint64(seconds[:], uint64(int64(ahead/time.Second)))
	_, err = file.WriteAt(seconds[:], 0)
	require.NoError(c.t, err)
	require.NoError(c.t, file.Close())
}

// command runs a program that withClock has built with this clock.
func (c *wallClock) command(path, program string, args []string) *exec.Cmd {
	command := commandOf(path, program, args)
	command.Env = append(command.Env, clockFile+"="+c.file)
	return command
}

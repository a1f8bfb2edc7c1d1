package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/store"
)

// A child process that keeps a store and carries out commands, so that its disk
// can be made to fail.
const childPath = "RELAY_SQLITE_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		if err := serveCommands(path, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveCommands answers each line with one line: "put N", "remove", "reopen",
// "backup PATH", "failure" and "noop".
func serveCommands(path string, in io.Reader, out io.Writer) error {
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		command, argument, _ := strings.Cut(lines.Text(), " ")
		switch command {
		case "put":
			n, err := strconv.Atoi(argument)
			if err != nil {
				return err
			}
			_, err = s.Put(context.Background(), mail(n), store.Limits{})
			answer(out, err)
		case "remove":
			answer(out, removeOdd(s))
		case "backup":
			answer(out, s.Backup(context.Background(), argument))
		case "noop":
			answer(out, nil)
		case "failure":
			answerFailure(out, s)
		case "reopen":
			closed := s.Close()
			if s, err = Open(path, Options{}); err != nil {
				return err
			}
			answer(out, closed)
		}
	}
	return s.Close()
}

func answer(out io.Writer, err error) {
	said := "ok"
	switch {
	case errors.Is(err, store.ErrReopen):
		said = "reopen"
	case errors.Is(err, store.ErrFull):
		said = "full"
	case err != nil:
		said = "error " + err.Error()
	}
	_, _ = fmt.Fprintln(out, said) // a parent that has gone has failed already
}

// answerFailure answers with the result of the ability store.Failing.
func answerFailure(out io.Writer, s store.Failing) {
	said := "none"
	select {
	case <-s.Failed():
		said = s.Failure().Error()
	default:
		if s.Failure() != nil {
			said = "a failure that Failed doesn't tell"
		}
	}
	_, _ = fmt.Fprintln(out, said) // as in answer
}

type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startChild starts a child on the store at path, below another program if one
// is named.
func startChild(t *testing.T, path string, below ...string) *child {
	command := append(below, os.Args[0])
	c := &child{t: t, cmd: exec.Command(command[0], command[1:]...)}
	c.cmd.Env = append(os.Environ(), childPath+"="+path)
	c.cmd.Stderr = os.Stderr
	var err error
	c.in, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	c.out = bufio.NewReader(out)
	require.NoError(t, c.cmd.Start())
	return c
}

func (c *child) do(command string) string {
	c.t.Helper()
	_, err := fmt.Fprintln(c.in, command)
	require.NoError(c.t, err)
	line, err := c.out.ReadString('\n')
	require.NoError(c.t, err)
	return strings.TrimSuffix(line, "\n")
}

func (c *child) stop() {
	require.NoError(c.t, c.in.Close())
	require.NoError(c.t, c.cmd.Wait())
}

// inject makes system calls of the child fail until the function it returns is
// called.
func (c *child) inject(calls, errno string) (end func()) {
	strace := exec.Command(need.Program(c.t, "strace"), "-f", "-o", os.DevNull, "-e", "trace="+calls, "-e", "inject="+calls+":error="+errno, "-p", strconv.Itoa(c.cmd.Process.Pid))
	messages, err := strace.StderrPipe()
	require.NoError(c.t, err)
	require.NoError(c.t, strace.Start())
	said := bufio.NewReader(messages)
	for {
		line, err := said.ReadString('\n')
		if err != nil {
			_ = strace.Wait()
			need.Missing(c.t, "strace can't trace: "+line)
		}
		if strings.Contains(line, "attached") {
			break
		}
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	return func() {
		_ = strace.Process.Signal(unix.SIGINT) // it may have ended with the child
		_ = strace.Wait()                      // it ends by that signal
	}
}

// A failed fsync is a failed Put, and no later one may succeed before the store
// was reopened, since the kernel may have dropped the bytes that it couldn't write.
func TestFailedSync(t *testing.T) {
	need.Root(t)
	path := filepath.Join(t.TempDir(), "relay.db")
	c := startChild(t, path)
	for n := range 10 {
		require.Equal(t, "ok", c.do(fmt.Sprintf("put %d", n)))
	}
	end := c.inject("fsync,fdatasync", "EIO")
	require.Equal(t, "reopen", c.do("put 10"))
	require.Equal(t, "reopen", c.do("put 11"))
	end()
	require.Equal(t, "reopen", c.do("put 12"), "the disk works again, but who knows what it has")
	require.Contains(t, c.do("failure"), "failed fsync")
	require.Equal(t, "ok", c.do("reopen"))
	require.Equal(t, "none", c.do("failure"))
	require.Equal(t, "ok", c.do("put 12"))
	c.stop()
	requireKept(t, path, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12)
}

// A process that ends after a failed fsync leaves a log that the kernel may
// take for written: the next one writes and syncs all of it anew before SQLite
// reads it.
func TestFailedSyncThenKilled(t *testing.T) {
	need.Root(t)
	path := filepath.Join(t.TempDir(), "relay.db")
	c := startChild(t, path)
	require.Equal(t, "ok", c.do("put 0"))
	end := c.inject("fsync,fdatasync", "EIO")
	require.Equal(t, "reopen", c.do("put 1"))
	require.NoError(t, c.cmd.Process.Kill())
	_ = c.cmd.Wait() // it was killed
	end()
	log, err := os.Stat(path + "-wal")
	require.NoError(t, err)
	require.Positive(t, log.Size())

	calls := filepath.Join(t.TempDir(), "calls")
	c = startChild(t, path, need.Program(t, "strace"), "-f", "-y", "-e", "trace=pread64,pwrite64,fsync,fdatasync", "-s", "0", "-o", calls)
	require.Equal(t, "ok", c.do("noop"))
	seen, err := os.ReadFile(calls)
	require.NoError(t, err)
	var onLog []string
	for line := range strings.Lines(string(seen)) {
		if strings.Contains(line, "relay.db-wal>") {
			onLog = append(onLog, line)
		}
	}
	whole := fmt.Sprintf("%d, 0) = %d\n", log.Size(), log.Size())
	require.Contains(t, onLog[0], "pread64(")
	rewritten := slices.IndexFunc(onLog, func(call string) bool {
		return strings.Contains(call, "pwrite64(") && strings.HasSuffix(call, whole)
	})
	require.Positive(t, rewritten, onLog)
	require.Contains(t, strings.Join(onLog[rewritten+1:rewritten+3], ""), "sync(")
	c.stop()
	requireKept(t, path, 0)
}

// A write that fails fails the Put, and the store goes on.
func TestFailedWrite(t *testing.T) {
	need.Root(t)
	for _, errno := range []string{"EIO", "ENOSPC"} {
		path := filepath.Join(t.TempDir(), "relay.db")
		c := startChild(t, path)
		require.Equal(t, "ok", c.do("put 0"))
		end := c.inject("pwrite64", errno)
		got := c.do("put 1")
		require.NotEqual(t, "ok", got)
		if errno == "ENOSPC" {
			require.Equal(t, "full", got)
		}
		end()
		require.Equal(t, "ok", c.do("put 2"))
		c.stop()
		requireKept(t, path, 0, 2)
	}
}

// requireKept checks that the file is whole and has at least this mail, once.
// Mail whose Put failed may be there too.
func requireKept(t *testing.T, path string, numbers ...int) {
	t.Helper()
	s := open(t, path)
	var verdict string
	require.NoError(t, s.writer.conn.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict))
	require.Equal(t, "ok", verdict)
	entries, err := s.Next(t.Context(), "b", 0, math.MaxInt32, math.MaxInt64)
	require.NoError(t, err)
	found := make(map[store.Digest]int)
	for _, e := range entries {
		found[e.Digest]++
	}
	for _, n := range numbers {
		require.Equal(t, 1, found[mail(n).Digest], "mail %d", n)
	}
}

// On a full disk mail is refused; when there is room again the store goes on.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, "8m")
	filler := filepath.Join(dir, "filler")
	require.NoError(t, os.WriteFile(filler, make([]byte, 3<<20), 0o600))

	path := filepath.Join(dir, "relay.db")
	s := open(t, path)
	var kept []int
	putLarge := func(n int) error {
		m := mail(n)
		m.Body = make([]byte, 20_000)
		_, err := s.Put(t.Context(), m, store.Limits{})
		return err
	}
	for n := 0; ; n++ {
		require.Less(t, n, 1000)
		err := putLarge(n)
		if err != nil {
			require.ErrorIs(t, err, store.ErrFull)
			break
		}
		kept = append(kept, n)
	}
	require.ErrorIs(t, putLarge(2000), store.ErrFull)
	require.NoError(t, putLarge(kept[0]), "a copy needs no room")
	require.ErrorIs(t, s.PutAll(t.Context(), []store.Mail{mail(kept[0]), mail(2000), mail(2002)}), store.ErrFull)
	require.NoError(t, s.PutAll(t.Context(), []store.Mail{mail(kept[0]), mail(kept[1])}))
	usage, err := s.Usage(t.Context(), "b")
	require.NoError(t, err)
	require.EqualValues(t, len(kept), usage.Entries)
	entries, err := s.Next(t.Context(), "b", 0, 2, math.MaxInt64)
	require.NoError(t, err, "reading goes on")
	_, err = s.Ack(t.Context(), "b", entries[0].ID)
	require.NoError(t, err, "and acknowledging")
	require.NoError(t, s.Close())
	s = open(t, path) // and opening
	kept = kept[1:]

	require.NoError(t, os.Remove(filler))
	require.NoError(t, putLarge(2001))
	kept = append(kept, 2001)
	require.NoError(t, s.Close())
	requireKept(t, path, kept...)
}

// smallDisk mounts a file system of that size for the test.
func smallDisk(t *testing.T, size string) (dir string) {
	need.Root(t)
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		need.Missing(t, "can't mount a small file system: "+err.Error())
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0), "a closed store holds nothing open") })
	return dir
}

// fillDisk takes all room that is left.
func fillDisk(t *testing.T, dir string) {
	f, err := os.Create(filepath.Join(dir, "filler"))
	require.NoError(t, err)
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	require.NoError(t, f.Close())
	free, known := freeSpace(dir)
	require.True(t, known)
	require.Zero(t, free)
}

// Without a byte of room on the disk a store can be opened, read and
// acknowledged, also after a crash and if the room goes while it is open.
func TestNoRoomAtAll(t *testing.T) {
	for _, when := range []string{"closed", "crashed", "open"} {
		t.Run(when, func(t *testing.T) {
			dir := smallDisk(t, "16m")
			path := filepath.Join(dir, "relay.db")
			const count = 40
			if when == "crashed" {
				c := startChild(t, path)
				for n := range count {
					require.Equal(t, "ok", c.do(fmt.Sprintf("put %d", n)))
				}
				require.NoError(t, c.cmd.Process.Kill())
				_ = c.cmd.Wait() // it was killed
			} else {
				s := open(t, path)
				for n := range count {
					put(t, s, mail(n))
				}
				if when == "closed" {
					require.NoError(t, s.Close())
				} else {
					fillDisk(t, dir)
					requireDrained(t, s, count)
					return
				}
			}
			fillDisk(t, dir)
			s, err := Open(path, Options{SweepInterval: time.Hour, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			requireDrained(t, s, count)
			require.NoError(t, s.Close())
			require.NoError(t, os.Remove(filepath.Join(dir, "filler")))
			s = open(t, path)
			put(t, s, mail(1000))
			info, err := os.Stat(path + "-lock")
			require.NoError(t, err)
			require.Greater(t, info.Size(), int64(reserveBytes), "the room is kept again")
		})
	}
}

// requireDrained fetches mail one by one, as receivers do.
func requireDrained(t *testing.T, s *Store, count int) {
	t.Helper()
	_, err := s.Put(t.Context(), mail(5000), store.Limits{})
	require.ErrorIs(t, err, store.ErrFull)
	for after, n := int64(0), 0; n < count; n++ {
		if after > 0 {
			_, err := s.Ack(t.Context(), "b", after)
			require.NoError(t, err, "after %d", n)
		}
		entries, err := s.Next(t.Context(), "b", after, 1, math.MaxInt64)
		require.NoError(t, err)
		require.Equal(t, mail(n).Digest, entries[0].Digest)
		after = entries[0].ID
	}
}

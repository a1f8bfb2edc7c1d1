package sqlite

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// TestFilesChange deletes, renames, replaces and cuts the files of a store that
// runs, is killed or is closed, while mail is put into it. Mail that was put with
// success after that must be in the store when it is opened again, and a store
// whose database has gone must not begin anew. RELAY_FILES_ROUNDS is how often
// (default 12, with -short 4), RELAY_FILES_SEED makes the same choices again.
func TestFilesChange(t *testing.T) {
	usual := 3 * len(changeTargets)
	if testing.Short() {
		usual = len(changeTargets)
	}
	rounds, seed := seeds.Count(t, "RELAY_FILES_ROUNDS", usual), seeds.Of(t, "RELAY_FILES_SEED")
	for round := range rounds {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			c := &change{t: t, random: rand.New(rand.NewPCG(seed, uint64(round)))}
			c.run(round)
		})
	}
}

// A change is one round: a file, the change of it, and the mail that must be kept.
type change struct {
	t      *testing.T
	random *rand.Rand

	path, target, away string
	puts               int
	before, after      []int // put with success before and after the change
	says               string
}

var (
	changeTargets = []string{"", "-wal", "-shm", "/"}
	changeActions = []string{"delete", "rename", "replace", "cut", "empty"}
)

func (c *change) run(round int) {
	dir := filepath.Join(c.t.TempDir(), "dir")
	require.NoError(c.t, os.Mkdir(dir, 0o700))
	c.path, c.away = filepath.Join(dir, "relay.db"), filepath.Join(c.t.TempDir(), "away")
	suffix, action := changeTargets[round%len(changeTargets)], changeActions[c.random.IntN(len(changeActions))]
	c.target = c.path + suffix
	if suffix == "/" {
		c.target, action = dir, []string{"rename", "replace"}[c.random.IntN(2)]
	}
	running := c.random.IntN(3) > 0 // else between two runs
	c.t.Logf("%s of %s, running: %v", action, filepath.Base(c.target), running)

	child := startChild(c.t, c.path)
	for range 1 + c.random.IntN(60) {
		c.put(child, &c.before)
	}
	if c.random.IntN(2) == 0 { // some of it is in the database
		require.Equal(c.t, "ok", child.do("reopen"))
		c.put(child, &c.before)
	}
	if running {
		changed := make(chan error, 1)
		go func() { changed <- c.apply(action) }()
		for finished := false; !finished; {
			select {
			case err := <-changed:
				require.NoError(c.t, err)
				finished = true
			default:
				c.put(child, &[]int{}) // before or after: nobody knows
			}
		}
		for range 5 {
			c.put(child, &c.after)
		}
	}
	c.end(child)
	if !running {
		if _, err := os.Stat(c.target); err != nil {
			return // it was closed, and has no log
		}
		require.NoError(c.t, c.apply(action))
	}
	c.reopen(action)
}

// put has the child put the next mail, and notes it if that succeeded.
func (c *change) put(child *child, kept *[]int) {
	c.puts++
	if _, err := fmt.Fprintf(child.in, "put %d\n", c.puts); err != nil {
		return // it has ended: its index was cut below it
	}
	line, err := child.out.ReadString('\n')
	if err == nil && line == "ok\n" {
		*kept = append(*kept, c.puts)
	}
	c.says = strings.TrimSpace(line)
}

// apply changes the target, and keeps it in another place if it can.
func (c *change) apply(action string) error {
	time.Sleep(time.Duration(c.random.IntN(20)) * time.Millisecond)
	switch action {
	case "cut", "empty":
		info, err := os.Stat(c.target)
		if err != nil || info.Size() == 0 {
			return err
		}
		size := int64(0)
		if action == "cut" {
			size = c.random.Int64N(info.Size())
		}
		return os.Truncate(c.target, size)
	case "replace":
		if err := os.Rename(c.target, c.away); err != nil {
			return err
		}
		if info, err := os.Stat(c.away); err != nil || info.IsDir() {
			return errors.Join(err, os.Mkdir(c.target, 0o700))
		}
		other := make([]byte, c.random.IntN(100_000))
		return os.WriteFile(c.target, other, 0o600)
	default: // deleted: nobody can put such a file back; its place is the same
		return os.Rename(c.target, c.away)
	}
}

func (c *change) end(child *child) {
	if c.random.IntN(2) == 0 {
		require.NoError(c.t, child.cmd.Process.Kill())
	}
	_ = child.in.Close() // it may have ended
	_ = child.cmd.Wait() // it may have been killed
	_, _ = io.Copy(io.Discard, child.out)
}

// reopen opens the store as it is, and again with all files back.
func (c *change) reopen(action string) {
	s, err := Open(c.path, Options{})
	_, gone := os.Stat(c.away)
	if action == "cut" || action == "empty" {
		gone = errors.New("nothing is kept")
	}
	if err == nil {
		c.require(s, c.after)
		require.NoError(c.t, s.Close())
		return
	}
	c.t.Log(err)
	require.NotContains(c.t, err.Error(), "in use")
	if gone != nil {
		return
	}
	require.NoError(c.t, os.RemoveAll(c.target))
	require.NoError(c.t, os.Rename(c.away, c.target))
	s, err = Open(c.path, Options{})
	require.NoError(c.t, err)
	c.require(s, append(c.before, c.after...))
	require.NoError(c.t, s.Close())
}

// require checks that the store has mail that was put with success, and that it
// isn't a new one: it has some of the mail that was put before the change.
func (c *change) require(s *Store, kept []int) {
	entries, err := s.Next(c.t.Context(), "b", 0, math.MaxInt32, math.MaxInt64)
	if !errors.Is(err, store.ErrEmpty) {
		require.NoError(c.t, err)
	}
	found := make(map[store.Digest]bool)
	for _, e := range entries {
		found[e.Digest] = true
	}
	for _, n := range kept {
		require.True(c.t, found[mail(n).Digest], "mail %d of %v, after %v", n, kept, c.says)
	}
}

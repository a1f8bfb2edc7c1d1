package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/sqlite"
)

// skipKillsIfShort is for commands that are killed, which tell of no races: others run them
// to their end.
func skipKillsIfShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("a command that is killed tells of no races")
	}
}

// TestKillTools kills commands that change a whole database with SIGKILL, as they are
// about to make one of the system calls by which files change. The old state must be there
// or the new one; of import and purge, which do some mail at a time, a part may be done, and
// the same command does the rest. RELAY_TOOLS_ROUNDS is how often each is killed (default
// 2), RELAY_TOOLS_SEED makes the same choices again.
func TestKillTools(t *testing.T) {
	skipKillsIfShort(t)
	strace := need.Program(t, "strace")
	rounds := seeds.Count(t, "RELAY_TOOLS_ROUNDS", 2)
	random := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_TOOLS_SEED"), 0))
	f := newToolFixture(t)
	files, writes := []string{"renameat", "unlinkat,unlink", "fsync,fdatasync", "openat"}, []string{"fsync,fdatasync", "pwrite64"}
	for _, tool := range []killedTool{
		{args: []string{"restore", f.backup, "--replace"}, calls: files, check: f.checkRestore},
		{args: []string{"repair"}, calls: files, prepare: f.cut, check: f.checkRepair, status: exitProblem},
		{args: []string{"import"}, calls: writes, input: f.lines, prepare: removeDatabase, check: f.checkImport},
		{args: []string{"purge", "--mailbox", "d1", "--yes", "--offline"}, calls: writes, check: f.checkPurge},
	} {
		t.Run(tool.args[0], func(t *testing.T) {
			tool.strace, tool.from = strace, f.db
			for range rounds {
				tool.round(t, random)
			}
		})
	}
}

// A killedTool is a command that is killed.
type killedTool struct {
	strace, from string
	args, calls  []string
	most         int // calls that it makes; 0: a few
	input        string
	status       int // that it may have besides 0
	prepare      func(t *testing.T, db string)
	check        func(t *testing.T, db string, isDone bool)
}

func (k *killedTool) round(t *testing.T, random *rand.Rand) {
	db := database(t)
	copyDatabase(t, k.from, db)
	if k.prepare != nil {
		k.prepare(t, db)
	}
	calls := k.calls[random.IntN(len(k.calls))]
	when := 1 + random.IntN(1<<random.IntN(6)) // often one of the first
	if k.most > 0 {
		when = 1 + random.IntN(k.most)
	}
	inject := fmt.Sprintf("inject=%s:signal=KILL:when=%d", calls, when)
	isKilled := k.run(t, db, k.strace, "-f", "-o", "/dev/null", "-e", "trace="+calls, "-e", inject)
	t.Logf("%s: killed: %v", inject, isKilled)
	k.check(t, db, !isKilled)
	require.False(t, k.run(t, db))
	k.check(t, db, true)
}

// run runs the command, below another one, and reports whether it was killed.
func (k *killedTool) run(t *testing.T, db string, below ...string) (isKilled bool) {
	t.Helper()
	input := filepath.Join(t.TempDir(), "input")
	require.NoError(t, os.WriteFile(input, []byte(k.input), 0o600))
	self := commandOf(os.Args[0], withInput, append(slices.Clone(k.args), "--db", db))
	args := append(below, self.Args...)
	c := exec.Command(args[0], args[1:]...)
	c.Env = self.Env
	var err error
	c.Stdin, err = os.Open(input)
	require.NoError(t, err)
	said, err := c.CombinedOutput()
	exit := new(exec.ExitError)
	if errors.As(err, &exit) {
		status := exit.Sys().(syscall.WaitStatus)
		if status.Signaled() && status.Signal() == syscall.SIGKILL {
			return true
		}
		require.Equal(t, k.status, exit.ExitCode(), "%s", said)
		return false
	}
	require.NoError(t, err, "%s", said)
	return false
}

// copyDatabase copies a database that isn't in use, with its log.
func copyDatabase(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-lock"} {
		content, err := os.ReadFile(from + suffix)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to+suffix, content, 0o600))
	}
}

func removeDatabase(t *testing.T, db string) {
	for _, suffix := range []string{"", "-wal", "-lock"} {
		require.NoError(t, os.Remove(db+suffix))
	}
}

type boxes = map[spec.ServerName][]store.Mail

// A toolFixture is a database with a log, as a crash leaves it, and its backup.
type toolFixture struct {
	db, backup, lines   string
	before, now, halved boxes
}

func newToolFixture(t *testing.T) *toolFixture {
	f := &toolFixture{db: database(t), backup: filepath.Join(t.TempDir(), "backup.db")}
	open := filepath.Join(t.TempDir(), "open.db")
	s, err := sqlite.Open(open, sqlite.Options{})
	require.NoError(t, err)
	all := mailOf(t)
	for i, m := range all {
		if i == len(all)-20 {
			require.NoError(t, s.Backup(t.Context(), f.backup))
			f.before = contents(t, s)
		}
		_, err := s.Put(t.Context(), m, store.Limits{})
		require.NoError(t, err)
	}
	f.now = contents(t, s)
	copyDatabase(t, open, f.db)
	require.NoError(t, s.Close())
	f.lines, err = piped(t, newExport(), "", "--db", open)
	require.NoError(t, err)
	return f
}

// opened opens a database and returns its mail, which must be counted rightly.
func opened(t *testing.T, db string) (boxes, error) {
	s, err := sqlite.Open(db, sqlite.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { require.NoError(t, s.Close()) }()
	all, entries := contents(t, s), 0
	for _, mail := range all {
		entries += len(mail)
	}
	held, err := holds(t.Context(), s)
	require.NoError(t, err)
	require.EqualValues(t, entries, held.Entries)
	return all, nil
}

// checkRestore finds one of both databases, and the first that was replaced as it was. It
// moves that away, so that the command can be given again.
func (f *toolFixture) checkRestore(t *testing.T, db string, isDone bool) {
	got, err := opened(t, db)
	require.NoError(t, err)
	if isDone || !assert.ObjectsAreEqual(f.now, got) {
		require.Equal(t, f.before, got)
	}
	kept, first := db+"-before", db+"-first"
	if _, err := os.Stat(kept); err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
		return
	}
	if _, err := os.Stat(first); err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
		got, err := opened(t, kept)
		require.NoError(t, err)
		require.Equal(t, f.now, got)
	}
	require.NoError(t, os.Rename(kept, first))
}

// cut takes the end of a database away, which is refused when it is opened.
func (f *toolFixture) cut(t *testing.T, db string) {
	_, err := opened(t, db) // this brings the log into it
	require.NoError(t, err)
	info, err := os.Stat(db)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(db, info.Size()/2))
	if f.halved == nil {
		whole := database(t)
		content, err := os.ReadFile(db)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(whole, content, 0o600))
		_, err = sqlite.Repair(whole)
		require.NoError(t, err)
		f.halved, err = opened(t, whole)
		require.NoError(t, err)
		require.NotEmpty(t, f.halved)
	}
}

func (f *toolFixture) checkRepair(t *testing.T, db string, isDone bool) {
	got, err := opened(t, db)
	if err != nil && !isDone {
		require.ErrorContains(t, err, "was cut")
		return
	}
	require.NoError(t, err)
	require.Equal(t, f.halved, got)
}

// checkImport finds the first mail of each mailbox, or all of it.
func (f *toolFixture) checkImport(t *testing.T, db string, isDone bool) {
	got, err := opened(t, db)
	require.NoError(t, err)
	if isDone {
		require.Equal(t, f.now, got)
	}
	for name, mail := range got {
		require.Equal(t, f.now[name][:len(mail)], mail)
	}
}

// checkPurge finds all other mail, and some of the mail that is to be purged, or none.
func (f *toolFixture) checkPurge(t *testing.T, db string, isDone bool) {
	got, err := opened(t, db)
	require.NoError(t, err)
	require.Subset(t, f.now["d1"], got["d1"])
	if isDone {
		require.Empty(t, got["d1"])
	}
	got["d1"] = f.now["d1"]
	require.Equal(t, f.now, got)
}

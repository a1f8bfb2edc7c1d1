//go:build unix

package owned_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/internal/owned"
)

// TestPathIsTurned: a user that turns the path to a folder of theirs into one to a folder of root
// gets no file there.
func TestPathIsTurned(t *testing.T) {
	need.Root(t)
	const owner = 61234
	dir := t.TempDir()
	theirs, roots, path := filepath.Join(dir, "theirs"), filepath.Join(dir, "roots"), filepath.Join(dir, "path")
	require.NoError(t, errors.Join(os.Mkdir(theirs, 0o700), os.Mkdir(roots, 0o700), os.Chown(theirs, owner, owner)))
	require.NoError(t, os.Symlink(theirs, path))
	done := make(chan struct{})
	var turning sync.WaitGroup
	defer turning.Wait()
	defer close(done)
	turning.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			next := filepath.Join(dir, "next")
			_ = errors.Join(os.Symlink([]string{theirs, roots}[i%2], next), os.Rename(next, path)) // else it stays
		}
	})
	for i := range 1000 {
		name := filepath.Join(path, strconv.Itoa(i))
		f, err := owned.Create(name, name)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	for folder, want := range map[string]uint32{theirs: owner, roots: 0} {
		files, err := os.ReadDir(folder)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			info, err := file.Info()
			require.NoError(t, err)
			require.Equal(t, want, info.Sys().(*syscall.Stat_t).Uid, "in %s", folder)
		}
	}
}

// TestLinkIsNoFile: no file is made where a symbolic link leads.
func TestLinkIsNoFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	require.NoError(t, os.Symlink("other", name))
	_, err := owned.Create(name, name)
	require.ErrorIs(t, err, os.ErrExist)
	require.ErrorContains(t, err, dir)
	require.NoFileExists(t, filepath.Join(dir, "other"))
}

package jetstream

import (
	"os"
	"syscall"
	"testing"
)

// serverDir is where a server of a test keeps its files: in memory, if there's
// enough. No test cuts the power, and all would wait for the disk. A benchmark
// is to wait for it.
func serverDir(tb testing.TB) string {
	const memory, enough = "/dev/shm", 512 << 20
	var about syscall.Statfs_t
	if _, measured := tb.(*testing.B); measured || syscall.Statfs(memory, &about) != nil || about.Bavail*uint64(about.Bsize) < enough {
		return tb.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "relay-jetstream-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

package pgtest

import (
	"syscall"
	"testing"
)

// parentDir is the directory for servers' files: in memory, if there is enough. No test
// cuts the power, and all would wait for the disk. A benchmark is to wait for it.
func parentDir(tb testing.TB) string {
	const memory, enough = "/dev/shm", 4 << 30
	var about syscall.Statfs_t
	if _, measured := tb.(*testing.B); measured || syscall.Statfs(memory, &about) != nil || about.Bavail*uint64(about.Bsize) < enough {
		return ""
	}
	return memory
}

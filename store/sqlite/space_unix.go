//go:build linux || darwin || freebsd

package sqlite

import (
	"errors"

	"golang.org/x/sys/unix"
)

// freeSpace is how many bytes can still be written in a directory.
func freeSpace(dir string) (bytes uint64, known bool) {
	var stat unix.Statfs_t
	if unix.Statfs(dir, &stat) != nil {
		return 0, false
	}
	return uint64(stat.Bavail) * uint64(stat.Bsize), true //nolint:unconvert // the types differ between systems
}

// isNoSpace reports whether an error comes from a full disk.
func isNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

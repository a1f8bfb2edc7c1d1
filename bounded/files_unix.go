//go:build unix

package bounded

import "golang.org/x/sys/unix"

// openFiles returns the limit of open files, raised to the most that is allowed. Go's
// runtime has raised it already in programs that use package os, but not on each system.
func openFiles() (files uint64, known bool) {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0, false
	}
	if limit.Cur < limit.Max {
		raised := limit
		raised.Cur = limit.Max
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			limit = raised
		}
	}
	return uint64(limit.Cur), true //nolint:unconvert // FreeBSD has an int64
}

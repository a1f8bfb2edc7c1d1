//go:build !(linux || darwin || freebsd)

package sqlite

// freeSpace isn't known here: mail that doesn't fit fails when it is written.
func freeSpace(string) (bytes uint64, known bool) { return 0, false }

// isNoSpace can't tell here.
func isNoSpace(error) bool { return false }

//go:build unix

package sqlite

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lock takes the lock that ends with the process. It isn't on the database
// itself: closing any descriptor of that would drop SQLite's own locks.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errInUse
	}
	return err
}

// checkLinks refuses a file that has several names: each would have a lock and
// a log of its own.
func checkLinks(path string) error {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return err
	}
	if stat.Nlink > 1 {
		return fmt.Errorf("the file has %d hard links, and must have one name", stat.Nlink)
	}
	return nil
}

// syncDir makes names in a folder last.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

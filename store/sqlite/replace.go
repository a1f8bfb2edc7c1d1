package sqlite

import (
	"os"
	"path/filepath"

	"github.com/matrixrelay/relay/internal/owned"
)

// Suffixes of the file that is being built, of one that a repair couldn't read whole, and
// of one in whose place a backup was put.
const (
	buildSuffix   = "-repair"
	damagedSuffix = "-damaged"
	beforeSuffix  = "-before"
)

// replace puts the file that was built into the place of the database. That is kept, with
// its log, under a name with this suffix; without a suffix there must be no log. See
// unfinished for a crash in between.
func replace(path string, lock *lockFile, keep string) error {
	if keep != "" {
		if err := lock.rememberReplacing(); err != nil {
			return err
		}
		if err := keepAs(path, keep); err != nil {
			return err
		}
	}
	if err := os.Rename(path+buildSuffix, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// keepAs renames a database and its log, which may be there alone.
func keepAs(path, suffix string) error {
	if err := removeAll(path+suffix, path+suffix+"-wal", path+suffix+"-shm"); err != nil {
		return err
	}
	if isThere, err := exists(path); err != nil {
		return err
	} else if isThere {
		if err := os.Rename(path, path+suffix); err != nil {
			return err
		}
	}
	// Without its log the database would lack mail. Only once it has gone may that go.
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return keepLogAs(path, suffix)
}

// keepLogAs renames the log of a database that isn't there any more, before another
// database comes into its place: the log would be brought into that.
func keepLogAs(path, suffix string) error {
	logged, err := sizeOf(path + "-wal")
	if err != nil {
		return err
	}
	if logged > 0 {
		if err := os.Rename(path+"-wal", path+suffix+"-wal"); err != nil {
			return err
		}
	}
	if err := removeAll(path+"-wal", path+"-shm"); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// makeBuild makes the file that is to be built. If root does that, it belongs to the
// owner of the database, as the one that it replaces does.
func makeBuild(path string) error {
	if err := removeBuild(path, "", "-wal", "-shm", "-journal"); err != nil {
		return err
	}
	f, err := owned.Create(path+buildSuffix, path)
	if err != nil {
		return err
	}
	return f.Close()
}

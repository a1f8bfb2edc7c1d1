package sqlite

import (
	"errors"
	"io/fs"
	"os"
)

// unfinished finishes a repair or a restore that a crash has ended while it replaced the
// database, and undoes one that was ended earlier. Without a database there is nothing to
// undo: the operator has taken it away.
func unfinished(path string, lock *lockFile) error {
	size, err := sizeOf(path)
	if err != nil {
		return err
	}
	if size > 0 {
		return removeBuild(path, "", "-wal", "-shm", "-journal")
	}
	built, err := exists(path + buildSuffix)
	if err != nil || !built || !lock.isReplacing() {
		return err
	}
	if err := keepLogAs(path, beforeSuffix); err != nil { // a repair leaves none
		return err
	}
	if err := replace(path, lock, ""); err != nil {
		return err
	}
	return lock.remember()
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func removeBuild(path string, suffixes ...string) error {
	var errs []error
	for _, suffix := range suffixes {
		errs = append(errs, removeAll(path+buildSuffix+suffix))
	}
	return errors.Join(errs...)
}

// removeAll removes files that may be there.
func removeAll(paths ...string) error {
	var errs []error
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

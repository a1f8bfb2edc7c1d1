// Package owned makes files that belong to the right user when root makes them: a relay that
// isn't root could not open them else.
package owned

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Create makes a private file that isn't there yet, open for reading and writing. If root
// makes it, it belongs to the owner of the file beside it, which may be itself, or else of its
// folder. That is the folder in which it is: the path may lead to another one meanwhile.
func Create(name, beside string) (*os.File, error) {
	folder, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = folder.Close() }() // it was only looked at
	info, err := folder.Lstat(filepath.Base(beside))
	if errors.Is(err, fs.ErrNotExist) {
		info, err = folder.Stat(".")
	}
	if err != nil {
		return nil, err
	}
	f, err := folder.OpenFile(filepath.Base(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("in %s: %w", filepath.Dir(name), err)
	}
	if err := giveTo(f, info); err != nil {
		return nil, errors.Join(err, f.Close(), folder.Remove(filepath.Base(name)))
	}
	return f, nil
}

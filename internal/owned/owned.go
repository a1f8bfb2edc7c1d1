// Package owned makes files that belong to the right user when root makes them: a relay that
// isn't root could not open them else.
package owned

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Create makes a private file that isn't there yet, open for reading and writing. If root
// makes it, it belongs to the owner of the file beside it, which may be itself, or else of its
// folder.
func Create(name, beside string) (*os.File, error) {
	info, err := os.Stat(beside)
	if errors.Is(err, fs.ErrNotExist) {
		info, err = os.Stat(filepath.Dir(name))
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := giveTo(f, info); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(name))
	}
	return f, nil
}

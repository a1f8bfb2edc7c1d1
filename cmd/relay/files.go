package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/matrixrelay/relay/internal/owned"
)

// writeNew writes a secret into a file that isn't there yet.
func writeNew(file string, content []byte) error {
	return writeNewFrom(file, func(out io.Writer) error {
		_, err := out.Write(content)
		return err
	})
}

// writeNewFrom has something written into a private file that isn't there yet: that of the
// folder's owner if root does it. When it returns nil, the file survives a power cut; after an
// error there is none.
func writeNewFrom(file string, write func(io.Writer) error) error {
	out, err := owned.Create(file, file)
	if err != nil {
		return err
	}
	err = write(out)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = syncFolder(filepath.Dir(file))
	}
	if err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}

// syncFolder makes the names in a folder last.
func syncFolder(path string) error {
	if runtime.GOOS == "windows" { // where they last by themselves
		return nil
	}
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

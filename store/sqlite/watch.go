package sqlite

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// frameSize is the size of a page in the log, behind a header of logHeader bytes.
const (
	logHeader = 32
	frameSize = 24 + pageSize
)

// A watch tells whether the files are still those that SQLite has open, and as
// long as they must be. It is safe for concurrent use.
type watch struct {
	database, log, index watched

	mu    sync.Mutex
	least int64 // bytes that the database must have
}

// A watched file is one that SQLite has open. All but the database are open here,
// too: to close the database would take SQLite's locks from it.
type watched struct {
	path string
	f    *os.File
	info os.FileInfo
}

// newWatch is called when SQLite has the files open.
func newWatch(path string) (*watch, error) {
	w := &watch{database: watched{path: path}, log: watched{path: path + "-wal"}, index: watched{path: path + "-shm"}}
	var err error
	if w.database.info, err = os.Stat(path); err != nil {
		return nil, err
	}
	w.least = w.database.info.Size()
	if err := cmp.Or(w.log.open(), w.index.open()); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *watched) open() (err error) {
	if w.f, err = os.Open(w.path); err != nil {
		return err
	}
	w.info, err = w.f.Stat()
	return err
}

func (w *watched) close() error {
	if w.f == nil {
		return nil
	}
	return w.f.Close()
}

// close comes after SQLite has closed the files: to close the index before would
// take the locks from it.
func (w *watch) close() error { return errors.Join(w.log.close(), w.index.close()) }

// size returns how long the file is, if it is still there under its name.
func (w *watched) size() (int64, error) {
	info, err := os.Stat(w.path)
	if err != nil {
		return 0, fmt.Errorf("%s was taken away: %w", filepath.Base(w.path), err)
	}
	if !os.SameFile(info, w.info) {
		return 0, fmt.Errorf("another file is in the place of %s", filepath.Base(w.path))
	}
	return info.Size(), nil
}

// check returns an error if something has happened to the files.
func (w *watch) check() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		have, err := w.readIndex()
		if err == nil {
			err = w.compare(have)
		}
		if err == nil {
			return nil
		}
		// The log may have begun anew in between.
		if again, e := w.readIndex(); e != nil || again == have {
			return err
		}
	}
}

// An index is SQLite's index of the log, in PATH-shm.
type index struct {
	frames uint32 // of the log that count
	pages  uint32 // that the database has with them
	salt   [8]byte
	moved  uint32 // frames that are in the database already
}

// readIndex reads the index that all connections share: it is there twice, so that a
// reader notices if it is being written at the same time.
func (w *watch) readIndex() (x index, err error) {
	const one = 48
	var b [2*one + 4]byte
	for range 100 {
		if _, err = w.index.f.ReadAt(b[:], 0); err != nil {
			return x, fmt.Errorf("%s was cut: %w", filepath.Base(w.index.path), err)
		}
		if bytes.Equal(b[:one], b[one:2*one]) {
			break
		}
	}
	number := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	x = index{frames: number(16), pages: number(20), moved: number(2 * one)}
	copy(x.salt[:], b[32:])
	return x, nil
}

func (w *watch) compare(x index) error {
	size, err := w.database.size()
	if err != nil {
		return err
	}
	if err := w.compareDatabase(x, size); err != nil {
		return err
	}
	if _, err := w.index.size(); err != nil {
		return err
	}
	if size, err = w.log.size(); err != nil {
		return err
	}
	if x.frames == 0 {
		return nil
	}
	var header [logHeader]byte
	_, err = w.log.f.ReadAt(header[:], 0)
	if size < logHeader+int64(x.frames)*frameSize || err != nil || !bytes.Equal(header[16:24], x.salt[:]) {
		return fmt.Errorf("%s was cut or written to: it isn't as this store wrote it", filepath.Base(w.log.path))
	}
	return nil
}

// compareDatabase knows that the file has all pages when the whole log was brought
// into it, and from then on only shrinks to a size that it had after a commit.
func (w *watch) compareDatabase(x index, size int64) error {
	if pages := int64(x.pages) * pageSize; pages > 0 && (pages < w.least || x.frames == x.moved) {
		w.least = pages
	}
	if size < w.least {
		return fmt.Errorf("%s was cut: it has %d bytes and must have %d", filepath.Base(w.database.path), size, w.least)
	}
	return nil
}

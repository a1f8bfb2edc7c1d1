package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/matrixrelay/relay/internal/owned"
)

// The words that the lock file begins with once a database was made, and how many
// bytes they get.
const (
	wordMade    = "A relay's database was made beside this file. Keep this file as long as the database.\n"
	wordDamaged = "The database is damaged: it is repaired when it is opened.\n"
	wordReplace = "A repair is done: what it has built takes the place of the database.\n"
	wordsSize   = 512
)

// reserveBytes is the room that the lock file keeps on the disk behind its
// words. It is given up when there is no other, so that the store can be opened,
// read and acknowledged on a full disk.
const reserveBytes = 1 << 20

// plentyBytes is how much must be free on the disk for that room to be taken.
const plentyBytes = 8 * reserveBytes

// A lockFile is PATH-lock. Its lock keeps other processes out; it is left there for
// ever and remembers that there is a database, and whether that has to be repaired.
type lockFile struct {
	path string
	f    *os.File

	mu    sync.Mutex
	words string
	held  bool // the reserve is there
}

// lockSuffix ends the name of a lock file.
const lockSuffix = "-lock"

// takeLock opens the lock file and locks it.
func takeLock(path string) (*lockFile, error) {
	f, err := owned.Create(path, strings.TrimSuffix(path, lockSuffix))
	if errors.Is(err, fs.ErrExist) {
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, err
	}
	l := &lockFile{path: path, f: f}
	if err := errors.Join(lock(f), l.read()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

func (l *lockFile) read() error {
	words := make([]byte, wordsSize)
	n, err := l.f.ReadAt(words, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	l.words = string(words[:n])
	l.held = info.Size() >= wordsSize+reserveBytes
	return nil
}

func (l *lockFile) close() error { return l.f.Close() }

// isMade reports whether a database was made here before.
func (l *lockFile) isMade() bool { return l.says(wordMade) }

// isDamaged reports whether the database was found damaged while it was in use.
func (l *lockFile) isDamaged() bool { return l.says(wordDamaged) }

// isReplacing reports whether a repair or a restore was done, and only had to put its
// database in place.
func (l *lockFile) isReplacing() bool { return l.says(wordReplace) }

func (l *lockFile) says(word string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.words, word)
}

// remember has the file say that a database was made, and that it is whole.
func (l *lockFile) remember() error { return l.write(wordMade) }

// rememberDamage has the file say that the database must be repaired.
func (l *lockFile) rememberDamage() error { return l.write(wordMade + wordDamaged) }

// rememberReplacing has the file say that another database is to take the place of this
// one, until remember.
func (l *lockFile) rememberReplacing() error {
	if l.isDamaged() {
		return l.write(wordMade + wordDamaged + wordReplace)
	}
	return l.write(wordMade + wordReplace)
}

func (l *lockFile) write(words string) error {
	words += strings.Repeat("\n", wordsSize-len(words))
	l.mu.Lock()
	defer l.mu.Unlock()
	if words == l.words {
		return nil
	}
	if _, err := l.f.WriteAt([]byte(words), 0); err != nil {
		return fmt.Errorf("write to %s: %w", filepath.Base(l.path), err)
	}
	if err := l.f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", filepath.Base(l.path), err)
	}
	l.words = words
	return nil
}

// makeRoom gives the reserve up if the disk has less room than that.
func (l *lockFile) makeRoom() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	free, known := freeSpace(filepath.Dir(l.path))
	if !l.held || !known || free >= reserveBytes {
		return nil
	}
	l.held = false
	return l.f.Truncate(int64(len(l.words)))
}

// reserve takes the room again if there is plenty.
func (l *lockFile) reserve() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	free, known := freeSpace(filepath.Dir(l.path))
	if l.held || !known || free < plentyBytes {
		return nil
	}
	// Bytes that aren't zero: some file systems keep no room for zeros.
	if _, err := l.f.WriteAt(bytes.Repeat([]byte{'.'}, reserveBytes), wordsSize); err != nil {
		return errors.Join(fmt.Errorf("reserve room: %w", err), l.f.Truncate(int64(len(l.words))))
	}
	l.held = true
	return l.f.Sync()
}

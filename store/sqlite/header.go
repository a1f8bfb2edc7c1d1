package sqlite

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// checkHeader refuses a file that isn't a relay's database, or was cut, before
// SQLite sees it: SQLite would bring a log that lies beside it into it, and then
// remove the log. SQLite must not have the file open in this process.
func checkHeader(path string, logged bool) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var header [headerSize]byte
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return fmt.Errorf("the file is no SQLite database: its header: %w", err)
	}
	number := func(at int) int64 { return int64(binary.BigEndian.Uint32(header[at:])) }
	switch isNew := number(68) == 0 && number(60) == 0; { // while it is being made
	case string(header[:len(magic)]) != magic:
		return fmt.Errorf("the file is no SQLite database%w", errFirstPage)
	case number(68) != applicationID && !isNew:
		return fmt.Errorf("the file is a database of something else%w", errFirstPage)
	case binary.BigEndian.Uint16(header[16:]) != pageSize:
		return fmt.Errorf("the file's pages have %d bytes, not %d%w", binary.BigEndian.Uint16(header[16:]), pageSize, errFirstPage)
	case !isNew && !isUsual(header):
		return fmt.Errorf("the file isn't what this program makes%w", errFirstPage)
	}
	// Before the log is brought into it, it may be shorter than it says.
	if pages := number(28); !logged && number(24) == number(92) && info.Size() < pages*pageSize {
		s := &salvage{f: f, pages: uint32(info.Size() / pageSize)}
		if isCut, err := s.isCut(); err != nil || isCut {
			return cmp.Or(err, fmt.Errorf("the file was cut: it has %d bytes and must have %d: %s", info.Size(), pages*pageSize, remedy))
		}
		return fmt.Errorf("the file says that it has %d pages%w", pages, errFirstPage)
	}
	return nil
}

const (
	headerSize = 100
	magic      = "SQLite format 3\x00"
)

// errFirstPage is the rest of a sentence.
var errFirstPage = errors.New(", or its first page is damaged: " + remedy)

// usual is the part of the header that is the same in all databases of ours. The versions
// at 18 and 19 are 1 until the log is used.
func usual() (header, mask [headerSize]byte) {
	set := func(at int, value ...byte) {
		copy(header[at:], value)
		for i := range value {
			mask[at+i] = 0xff
		}
	}
	set(0, []byte(magic)...)
	set(16, pageSize>>8, pageSize&0xff, 2, 2, 0, 64, 32, 32)
	set(44, 0, 0, 0, 4) // the format of the schema
	set(56, 0, 0, 0, 1) // UTF-8
	set(64, 0, 0, 0, 1) // incremental vacuum
	set(68, binary.BigEndian.AppendUint32(nil, applicationID)...)
	set(72, make([]byte, 20)...)
	mask[18], mask[19] = 0xfc, 0xfc
	return header, mask
}

func isUsual(header [headerSize]byte) bool {
	want, mask := usual()
	for i := range header {
		if (header[i]^want[i])&mask[i] != 0 {
			return false
		}
	}
	return header[18] != 0 && header[18] != 3 && header[18] == header[19]
}

// checkNotNewer refuses to repair the file of a newer program: data that only the newer
// program knows would be lost.
func checkNotNewer(path string) error {
	header, err := readHeader(path)
	if err != nil {
		return err
	}
	if err := checkVersion(int(int32(binary.BigEndian.Uint32(header[60:])))); !errors.Is(err, errDamaged) {
		return err
	}
	return nil
}

// checkMarked refuses a file whose header doesn't say that it is a relay's database. A new one
// doesn't before it has tables, nor do those of many other programs.
func checkMarked(path string) error {
	header, err := readHeader(path)
	if err == nil && binary.BigEndian.Uint32(header[68:]) != applicationID {
		err = errors.New("the file may be a database of something else")
	}
	return err
}

func readHeader(path string) (header [headerSize]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return header, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return header, fmt.Errorf("header: %w", err)
	}
	return header, nil
}

// writeHeader makes the header such that SQLite opens the file, if it isn't.
func writeHeader(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var header [headerSize]byte
	if _, err := f.ReadAt(header[:], 0); err != nil || isUsual(header) {
		return err
	}
	want, mask := usual()
	mask[18], mask[19] = 0xff, 0xff
	for i := range header {
		header[i] = header[i]&^mask[i] | want[i]
	}
	if _, err := f.WriteAt(header[:], 0); err != nil {
		return err
	}
	return f.Sync()
}

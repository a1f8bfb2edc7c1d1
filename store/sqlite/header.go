package sqlite

import (
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
	var header [100]byte
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return fmt.Errorf("the file is no SQLite database: its header: %w", err)
	}
	number := func(at int) int64 { return int64(binary.BigEndian.Uint32(header[at:])) }
	switch id := number(68); {
	case string(header[:16]) != "SQLite format 3\x00":
		return errors.New("the file is no SQLite database, or its first page is damaged: " + remedy)
	case id != applicationID && (id != 0 || number(60) != 0): // 0 while the database is being made
		return errors.New("the file is a database of something else, or its first page is damaged: " + remedy)
	case binary.BigEndian.Uint16(header[16:]) != pageSize:
		return fmt.Errorf("the file's pages have %d bytes, not %d, or its first page is damaged: %s",
			binary.BigEndian.Uint16(header[16:]), pageSize, remedy)
	}
	// Before the log is brought into it, it may be shorter than it says.
	if pages := number(28); !logged && number(24) == number(92) && info.Size() < pages*pageSize {
		return fmt.Errorf("the file was cut: it has %d bytes and must have %d: %s", info.Size(), pages*pageSize, remedy)
	}
	return nil
}

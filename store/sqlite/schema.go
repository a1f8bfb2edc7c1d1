package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// An entry goes through these states; live ones are all that Next sees.
const (
	live     = 0 // waits to be fetched; until is when it expires
	gone     = 1 // acknowledged or expired, without its body; remembered until until
	setAside = 2 // can't be read; kept until it expires, so that an operator can look
)

// migrations bring a file from the version that is its index to the next.
// user_version says how many of them a file has seen.
var migrations = []string{`
CREATE TABLE mailbox (           -- a destination that has entries or had some set aside
	id          INTEGER PRIMARY KEY AUTOINCREMENT,
	destination TEXT    NOT NULL UNIQUE,
	entries     INTEGER NOT NULL,
	bytes       INTEGER NOT NULL,
	set_aside   INTEGER NOT NULL
) STRICT;
CREATE TABLE share (             -- what one origin has in a mailbox
	mailbox INTEGER NOT NULL,
	origin  TEXT    NOT NULL,
	entries INTEGER NOT NULL,
	bytes   INTEGER NOT NULL,
	PRIMARY KEY (mailbox, origin)
) STRICT, WITHOUT ROWID;
CREATE TABLE total (             -- the sum of all mailboxes: one row
	entries   INTEGER NOT NULL,
	bytes     INTEGER NOT NULL,
	set_aside INTEGER NOT NULL
) STRICT;
INSERT INTO total VALUES (0, 0, 0);
CREATE TABLE entry (
	id       INTEGER PRIMARY KEY AUTOINCREMENT, -- never given again
	mailbox  INTEGER NOT NULL,
	copy_key BLOB    NOT NULL UNIQUE,           -- what makes mail the same mail
	state    INTEGER NOT NULL,
	until    INTEGER NOT NULL,                  -- milliseconds of the store's clock
	size     INTEGER NOT NULL,
	origin   TEXT    NOT NULL,
	txn      TEXT    NOT NULL,
	digest   BLOB    NOT NULL,
	checksum INTEGER NOT NULL,
	proof    BLOB,
	body     BLOB                               -- last: the others are read without it
) STRICT;
INSERT INTO sqlite_sequence (name, seq) VALUES ('entry', :first); -- see store.FirstID
CREATE INDEX entry_live ON entry (mailbox, id, until, state) WHERE state = 0; -- lists without reading rows
CREATE INDEX entry_until ON entry (state, until);
`, `
CREATE TABLE note (              -- what an embedder's own parts remember
	key   TEXT NOT NULL PRIMARY KEY,
	value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
`, `
-- What was in total so far is that of the mailboxes of servers.
ALTER TABLE total ADD COLUMN private_entries   INTEGER NOT NULL DEFAULT 0;
ALTER TABLE total ADD COLUMN private_bytes     INTEGER NOT NULL DEFAULT 0;
ALTER TABLE total ADD COLUMN private_set_aside INTEGER NOT NULL DEFAULT 0;
ALTER TABLE total ADD COLUMN clock             INTEGER NOT NULL DEFAULT 0; -- see store/internal/steady
UPDATE total SET clock = ` + clockStart + `;
`, `
ALTER TABLE entry   ADD COLUMN prev     INTEGER;                    -- the entry before it in its mailbox, see checksum
ALTER TABLE mailbox ADD COLUMN last     INTEGER NOT NULL DEFAULT 0; -- its newest entry, removed or not
ALTER TABLE total   ADD COLUMN checksum INTEGER;
`}

// clockStart is where the store's clock begins in a file that has none: at the
// machine's time, by which until was reckoned before. If that is before the file
// was made, the file knows better; and it is no reason to expire anything.
const clockStart = `min(
	max(:first, (SELECT seq FROM sqlite_sequence WHERE name = 'entry')) / 1000,
	coalesce((SELECT min(until) FROM entry WHERE state = 0), 9223372036854775807) - 1)`

// pragmas are set on every connection and read back: drivers and builds treat them
// differently. Each value is as SQLite reports it.
var pragmas = []struct{ name, value string }{
	{"busy_timeout", busyTimeout},
	{"journal_mode", "wal"},
	{"synchronous", "2"}, // FULL: NORMAL loses commits at a power cut
	{"foreign_keys", "1"},
	{"wal_autocheckpoint", "0"}, // the writer does it, and sees its errors
	{"journal_size_limit", "67108864"},
	{"cell_size_check", "1"},
}

// busyTimeout is how long is waited for the locks of other processes, in
// milliseconds.
const busyTimeout = "10000"

// dsn opens path, with any characters in it.
func dsn(path string) string {
	u := url.URL{Scheme: "file", OmitHost: true, Path: path}
	return u.String()
}

// prepareConn sets the connection up.
func prepareConn(ctx context.Context, c *sql.Conn) error {
	for _, p := range pragmas {
		if _, err := c.ExecContext(ctx, "PRAGMA "+p.name+" = "+p.value); err != nil {
			return fmt.Errorf("set %s: %w", p.name, err)
		}
		got, err := pragma[string](ctx, c, p.name)
		if err != nil {
			return fmt.Errorf("read %s back: %w", p.name, err)
		}
		if !strings.EqualFold(got, p.value) {
			return fmt.Errorf("%s is %s after it was set to %s", p.name, got, p.value)
		}
	}
	return nil
}

func pragma[T any](ctx context.Context, c *sql.Conn, name string) (value T, err error) {
	err = c.QueryRowContext(ctx, "PRAGMA "+name).Scan(&value)
	return value, err
}

// claim makes sure, before anything is written, that the file is new or a
// relay's of a version that this program knows.
func claim(ctx context.Context, c *sql.Conn, made bool) error {
	const incremental = 2 // takes effect only before there are tables
	pages, err := pragma[int](ctx, c, "page_count")
	if err != nil {
		return err
	}
	if pages == 0 {
		_, err := c.ExecContext(ctx, fmt.Sprintf("PRAGMA auto_vacuum = %d", incremental))
		return err
	}
	version, err := pragma[int](ctx, c, "user_version")
	if err != nil {
		return err
	}
	if err := checkVersion(version); err != nil {
		return err
	}
	id, err := pragma[int](ctx, c, "application_id")
	if err != nil {
		return err
	}
	if version == 0 && id == applicationID {
		return fmt.Errorf("%w: its version is gone", errDamaged)
	}
	if version == 0 && made {
		return errors.New("the database has lost its tables: " + remedy)
	}
	var tables int
	if err := c.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if tables > 0 && id != applicationID {
		return errors.New("the file is a database of something else")
	}
	return nil
}

// checkVersion refuses the file of a newer program. No program will have a version that
// isn't between 0 and 1000: such a file is damaged.
func checkVersion(version int) error {
	switch {
	case version < 0 || version > 1000:
		return fmt.Errorf("%w: its version can't be %d", errDamaged, version)
	case version > len(migrations):
		return fmt.Errorf("the file has version %d, this program knows up to %d", version, len(migrations))
	}
	return nil
}

// applicationID marks a relay's file: "Mrly".
const applicationID = 0x4d726c79

// migrate brings the file to the newest version, each step in a transaction.
func migrate(ctx context.Context, c *sql.Conn, first int64) error {
	version, err := pragma[int](ctx, c, "user_version")
	if err != nil {
		return err
	}
	for ; version < len(migrations); version++ {
		change := strings.ReplaceAll(migrations[version], ":first", strconv.FormatInt(first, 10))
		step := fmt.Sprintf("BEGIN IMMEDIATE; %s PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT",
			change, applicationID, version+1)
		if _, err := c.ExecContext(ctx, step); err != nil {
			return fmt.Errorf("migrate to version %d: %w", version+1, err)
		}
	}
	return nil
}

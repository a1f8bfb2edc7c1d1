package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// statements are those of the writer, prepared on its connection.
type statements struct {
	total, setTotal, setClock, newClock           *sql.Stmt
	mailbox, newMailbox, setMailbox, dropMailbox  *sql.Stmt
	left, share, setShare, dropShare              *sql.Stmt
	known, insert, owner, place, upTo, expired    *sql.Stmt
	retire, setAside, forget, freePages, giveBack *sql.Stmt
	setNote, dropNote, giveBackFew                *sql.Stmt

	entry entryQuery
}

const (
	totalSQL    = `SELECT ` + totalColumns + ` FROM total`
	setTotalSQL = `UPDATE total SET (` + totalColumns + `) = (?, ?, ?, ?, ?, ?, ?, ?)`

	// rowSQL is an entryRow with the name of its mailbox.
	rowSQL = `SELECT ` + allColumns + ` FROM entry`
)

// A preparation is a statement and where it goes. Its limit isn't a parameter alone:
// SQLite would prepare the statement anew each time, to make use of the value. It
// doesn't look into +?.
type preparation struct {
	statement **sql.Stmt
	query     string
}

func (s *statements) list() []preparation {
	return []preparation{
		{&s.total, totalSQL},
		{&s.setTotal, setTotalSQL},
		{&s.setClock, `UPDATE sqlite_sequence SET seq = ? WHERE name = '` + clockName + `'`},
		{&s.newClock, `INSERT INTO sqlite_sequence (name, seq) VALUES ('` + clockName + `', ?)`},

		{&s.mailbox, `SELECT id, entries, bytes, set_aside, last FROM mailbox WHERE destination = ?`},
		{&s.newMailbox, `INSERT INTO mailbox (destination, entries, bytes, set_aside) VALUES (?, 0, 0, 0)`},
		{&s.setMailbox, `UPDATE mailbox SET entries = ?, bytes = ?, set_aside = ?, last = ? WHERE id = ?`},
		{&s.dropMailbox, `DELETE FROM mailbox WHERE id = ?`},
		{&s.left, `SELECT id FROM entry INDEXED BY entry_live WHERE mailbox = ? AND state = 0 LIMIT 1`},

		{&s.share, `SELECT entries, bytes FROM share WHERE mailbox = ? AND origin = ?`},
		{&s.setShare, `INSERT INTO share (mailbox, origin, entries, bytes) VALUES (?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET entries = excluded.entries, bytes = excluded.bytes`},
		{&s.dropShare, `DELETE FROM share WHERE mailbox = ? AND origin = ?`},

		{&s.known, `SELECT 1 FROM entry WHERE copy_key = ?`},
		{&s.insert, `INSERT INTO entry (` + entryColumns + `)
			VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (copy_key) DO NOTHING`},
		{&s.owner, `SELECT mailbox FROM entry WHERE id = ?`},
		{&s.place, `SELECT mailbox, state FROM entry WHERE id = ?`},
		{&s.upTo, `SELECT id FROM entry INDEXED BY entry_live
			WHERE mailbox = ? AND state = 0 AND id <= ? ORDER BY id LIMIT +?`},
		{&s.expired, `SELECT id FROM entry INDEXED BY entry_until
			WHERE state = ? AND until <= ? ORDER BY until LIMIT +?`},
		{&s.retire, `UPDATE entry SET state = 1, until = ?, checksum = ?, body = NULL, proof = NULL WHERE id = ?`},
		{&s.setAside, `UPDATE entry SET state = 2, copy_key = randomblob(16) WHERE id = ?`},
		{&s.forget, `DELETE FROM entry WHERE id = ?`},

		{&s.setNote, `INSERT INTO note (key, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value`},
		{&s.dropNote, `DELETE FROM note WHERE key = ?`},

		{&s.freePages, `PRAGMA freelist_count`},
		{&s.giveBack, fmt.Sprintf(`PRAGMA incremental_vacuum(%d)`, sweepStep)},
		{&s.giveBackFew, fmt.Sprintf(`PRAGMA incremental_vacuum(%d)`, fullStep)},
	}
}

func (s *statements) entryQueries() []entryPreparation {
	return []entryPreparation{{&s.entry, rowSQL + ` WHERE id = ?`}}
}

func prepareAll(ctx context.Context, c *sql.Conn, list []preparation) error {
	for _, p := range list {
		var err error
		if *p.statement, err = c.PrepareContext(ctx, p.query); err != nil {
			return fmt.Errorf("prepare %q: %w", p.query, err)
		}
	}
	return nil
}

// closeAll closes the statements that were prepared. SQLite keeps the file open
// until all of them are closed.
func closeAll(list []preparation) error {
	var errs []error
	for _, p := range list {
		if *p.statement != nil {
			errs = append(errs, (*p.statement).Close())
		}
	}
	return errors.Join(errs...)
}

// readRows calls take for each row of a query.
func readRows(query *sql.Stmt, take func(*sql.Rows) error, args ...any) (err error) {
	rows, err := query.Query(args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := take(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// column returns the values of a query for one column, after an error those that it got.
func column[T any](query *sql.Stmt, args ...any) (values []T, err error) {
	err = readRows(query, func(rows *sql.Rows) error {
		var value T
		if err := rows.Scan(&value); err != nil {
			return err
		}
		values = append(values, value)
		return nil
	}, args...)
	return values, err
}

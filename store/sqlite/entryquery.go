package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"github.com/matrixrelay/relay/store/internal/seal"
)

// An entryQuery is a prepared query that selects rows of the table entry. It calls the
// driver itself, since package database/sql would copy each value again and find its
// type out. Like its connection it is for one goroutine at a time.
type entryQuery struct {
	conn      *sql.Conn
	statement driver.Stmt
	query     driver.StmtQueryContext // the same
	arguments []driver.NamedValue
	values    []driver.Value
}

// An entryPreparation is an entryQuery and its text.
type entryPreparation struct {
	into *entryQuery
	text string
}

func prepareEntryQueries(ctx context.Context, c *sql.Conn, list []entryPreparation) error {
	for _, p := range list {
		if err := p.into.prepare(ctx, c, p.text); err != nil {
			return fmt.Errorf("prepare %q: %w", p.text, err)
		}
	}
	return nil
}

func closeEntryQueries(list []entryPreparation) error {
	var errs []error
	for _, p := range list {
		errs = append(errs, p.into.close())
	}
	return errors.Join(errs...)
}

func (q *entryQuery) prepare(ctx context.Context, c *sql.Conn, text string) error {
	q.conn = c
	return c.Raw(func(raw any) (err error) {
		preparer, isPreparer := raw.(driver.ConnPrepareContext)
		if !isPreparer {
			return errors.New("the driver can't")
		}
		if q.statement, err = preparer.PrepareContext(ctx, text); err != nil {
			return err
		}
		var ok bool
		if q.query, ok = q.statement.(driver.StmtQueryContext); !ok {
			return errors.New("the driver can't query")
		}
		return nil
	})
}

func (q *entryQuery) close() error {
	if q.statement == nil {
		return nil
	}
	return q.conn.Raw(func(any) error { return q.statement.Close() })
}

// each calls take with one row after the other, until it returns false. The row is
// overwritten by the next one, but the mail in it can be kept.
func (q *entryQuery) each(take func(*entryRow) (more bool, err error), arguments ...driver.Value) error {
	q.arguments = q.arguments[:0]
	for i, value := range arguments {
		q.arguments = append(q.arguments, driver.NamedValue{Ordinal: i + 1, Value: value})
	}
	return q.conn.Raw(func(any) (err error) {
		rows, err := q.query.QueryContext(context.Background(), q.arguments) // see readConn
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		if q.values == nil {
			q.values = make([]driver.Value, len(rows.Columns()))
		}
		defer clear(q.values) // the last body, which may be large
		var row entryRow
		for {
			if err := rows.Next(q.values); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			row.set(q.values)
			if more, err := take(&row); err != nil || !more {
				return err
			}
		}
	})
}

// byID returns the row with that ID, or sql.ErrNoRows.
func (q *entryQuery) byID(id int64) (*entryRow, error) { return q.first(id) }

// byKey returns the row with that key, or sql.ErrNoRows.
func (q *entryQuery) byKey(key seal.Key) (*entryRow, error) { return q.first(key[:]) }

func (q *entryQuery) first(argument driver.Value) (found *entryRow, err error) {
	err = q.each(func(row *entryRow) (more bool, err error) {
		found = row
		return false, nil
	}, argument)
	if err == nil && found == nil {
		err = sql.ErrNoRows
	}
	return found, err
}

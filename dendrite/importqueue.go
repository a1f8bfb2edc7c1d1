package dendrite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/sirupsen/logrus"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// ImportOptions of ImportQueue. The zero value gives the defaults.
type ImportOptions struct {
	// Lifetime is how long the mail is kept from now on. Zero: relay.DefaultLifetime.
	// Negative: for ever.
	Lifetime time.Duration

	// Logger is told of mail that can't be read. Default: logrus's standard logger.
	Logger *logrus.Entry
}

// Imported counts the work that ImportQueue has done.
type Imported struct {
	// Moved counts transactions that are in the store now, copies of one another
	// included, which the store keeps once.
	Moved int

	// Unreadable counts those that stay in the tables: their bodies are missing, or
	// aren't those of transactions.
	Unreadable int
}

// ImportQueue moves the mail that Dendrite's own relay has (its tables relayapi_queue
// and relayapi_queue_json, in SQLite or PostgreSQL) into a store, in its order and
// without limits. A row is removed when the store has its mail, so nothing is lost
// when that is interrupted, and nothing is there twice when it goes on within the
// retention of the store. Where there is no such table there is nothing to do, so it
// may be called at each start, before Start, while nobody else uses the tables. It has
// some megabytes in memory at once, or the largest transaction.
//
// Dendrite's relay keeps no proofs, so receivers that demand one refuse this mail.
func ImportQueue(ctx context.Context, tables *sql.DB, mail store.Store, options ImportOptions) (Imported, error) {
	i := importer{tables: tables, mail: mail, lifetime: options.Lifetime, logger: options.Logger}
	if i.lifetime == 0 {
		i.lifetime = relay.DefaultLifetime
	}
	i.lifetime = max(i.lifetime, 0)
	if i.logger == nil {
		i.logger = logrus.NewEntry(logrus.StandardLogger())
	}
	for i.more = true; i.more; {
		if err := i.step(ctx); err != nil {
			return i.imported, fmt.Errorf("dendrite: importing mail: %w", err)
		}
	}
	return i.imported, nil
}

type importer struct {
	tables   *sql.DB
	mail     store.Store
	lifetime time.Duration
	logger   *logrus.Entry

	last     queued // the one up to which all were dealt with
	more     bool
	imported Imported
}

// A queued is a row of the queue, with its body, which may be missing.
type queued struct {
	nid         int64
	destination spec.ServerName
	id          gomatrixserverlib.TransactionID
	body        []byte
}

// A step takes that many rows, or fewer if their bodies are large.
const (
	stepRows  = 64
	stepBytes = 4 << 20
)

// step moves some rows.
func (i *importer) step(ctx context.Context) error {
	rows, err := i.read(ctx)
	if err != nil {
		if missing, lookErr := i.isMissing(ctx); lookErr == nil && missing {
			i.more = false
			return nil
		}
		return err
	}
	i.more = len(rows) > 0
	var moved []queued
	mails := make(map[spec.ServerName][]store.Mail)
	for _, row := range rows {
		mail, err := i.mailOf(row)
		if err != nil {
			i.imported.Unreadable++
			i.logger.WithError(err).Warnf("Transaction %s for %s, %d in Dendrite's queue, can't be read", row.id, row.destination, row.nid)
			continue
		}
		mails[row.destination] = append(mails[row.destination], mail)
		moved = append(moved, row)
	}
	for _, some := range mails {
		if err := i.put(ctx, some); err != nil {
			return err
		}
	}
	if err := i.remove(ctx, moved); err != nil {
		return err
	}
	i.imported.Moved += len(moved)
	return nil
}

// read returns the next rows, in the order of their arrival.
func (i *importer) read(ctx context.Context) (page []queued, err error) {
	rows, err := i.tables.QueryContext(ctx, `SELECT q.json_nid, q.server_name, q.transaction_id, j.json_body
		FROM relayapi_queue q LEFT JOIN relayapi_queue_json j ON j.json_nid = q.json_nid
		WHERE q.json_nid > $1 OR q.json_nid = $2 AND q.server_name > $3
		ORDER BY q.json_nid, q.server_name LIMIT $4`, i.last.nid, i.last.nid, string(i.last.destination), stepRows)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for size := 0; size < stepBytes && rows.Next(); size += len(i.last.body) {
		i.last = queued{}
		if err := rows.Scan(&i.last.nid, &i.last.destination, &i.last.id, &i.last.body); err != nil {
			return nil, err
		}
		page = append(page, i.last)
	}
	return page, rows.Err()
}

// isMissing reports whether there is no queue, in either database.
func (i *importer) isMissing(ctx context.Context) (missing bool, err error) {
	for _, query := range []string{
		`SELECT count(*) FROM sqlite_master WHERE name = 'relayapi_queue'`,
		`SELECT count(*) FROM information_schema.tables WHERE table_name = 'relayapi_queue'`,
	} {
		var count int
		if err = i.tables.QueryRowContext(ctx, query).Scan(&count); err == nil {
			return count == 0, nil
		}
	}
	return false, err
}

// mailOf makes mail of a row.
func (i *importer) mailOf(row queued) (store.Mail, error) {
	if row.body == nil {
		return store.Mail{}, errors.New("its body is missing")
	}
	content, err := wire.ReadContent(row.body)
	if err != nil {
		return store.Mail{}, err
	}
	mail := store.Mail{
		Destination: row.destination, Origin: content.Origin, TransactionID: row.id,
		Digest: content.Digest, Body: row.body, Lifetime: i.lifetime,
	}
	return mail, errors.Join(mail.Check(), wire.CheckName(mail.Destination), wire.CheckName(mail.Origin))
}

// put stores mails of one destination.
func (i *importer) put(ctx context.Context, mails []store.Mail) error {
	if batches, ok := i.mail.(store.Batches); ok {
		return batches.PutAll(ctx, mails)
	}
	for _, mail := range mails {
		if _, err := i.mail.Put(ctx, mail, store.Limits{}); err != nil {
			return err
		}
	}
	return nil
}

// remove removes rows whose mail the store has, and bodies that no row needs any more.
func (i *importer) remove(ctx context.Context, rows []queued) error {
	transaction, err := i.tables.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = transaction.Rollback() }() // after a commit it does nothing
	for _, row := range rows {
		if _, err := transaction.ExecContext(ctx, `DELETE FROM relayapi_queue WHERE json_nid = $1 AND server_name = $2`, row.nid, string(row.destination)); err != nil {
			return err
		}
		if _, err := transaction.ExecContext(ctx, `DELETE FROM relayapi_queue_json WHERE json_nid = $1
			AND NOT EXISTS (SELECT 1 FROM relayapi_queue WHERE json_nid = $2)`, row.nid, row.nid); err != nil {
			return err
		}
	}
	return transaction.Commit()
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"
)

// errGone says that the tables of a store aren't there any more.
var errGone = errors.New("the tables of the store are gone")

// isGone reports that the database, a table or a column isn't there.
func isGone(err error) bool {
	switch code(err) {
	case "3D000", "3F000", "42P01", "42703":
		return true
	}
	return errors.Is(err, errGone)
}

// relations are all that a store has in its schema.
var relations = []string{"version", "mailbox", "share", "total", "entry", "gone", "note", "entry_id"}

// missing says which of them aren't there.
func (s schema) missing(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, s.sql(missingSQL), relations)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// counted makes sure that the tables have the newest version, and returns their
// files when they were counted last.
func (s schema) counted(ctx context.Context, tx pgx.Tx) (files string, err error) {
	var version int
	err = tx.QueryRow(ctx, s.sql(`SELECT version, files FROM {s}.version`)).Scan(&version, &files)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("%w: table version is empty", errGone)
	}
	if err == nil && version != len(migrations) {
		err = fmt.Errorf("%w: there are some of version %d, and this program works with %d", errGone, version, len(migrations))
	}
	return files, err
}

// whole makes sure that the tables are there and say the same.
func (s schema) whole(ctx context.Context, tx pgx.Tx, clock int64) (found settings, lost int64, err error) {
	missing, err := s.missing(ctx, tx)
	if err != nil {
		return found, 0, err
	}
	if len(missing) > 0 {
		return found, 0, fmt.Errorf("%w: schema %s has no %s", errGone, string(s), strings.Join(missing, ", "))
	}
	counted, err := s.counted(ctx, tx)
	if err != nil {
		return found, 0, err
	}
	if found, err = readSettings(tx.QueryRow(ctx, s.sql(settingsSQL))); err != nil || found.files == counted {
		return found, 0, err
	}
	lost, err = s.recount(ctx, tx, clock)
	if err != nil {
		return found, 0, fmt.Errorf("count anew: %w", err)
	}
	_, err = tx.Exec(ctx, s.sql(`UPDATE {s}.version SET files = $1`), found.files)
	return found, lost, err
}

// recount counts the entries that are there.
// Entries whose mailbox is gone can't be handed out, and would be taken for
// copies when they are put again: they are removed.
func (s schema) recount(ctx context.Context, tx pgx.Tx, clock int64) (lost int64, err error) {
	for _, sql := range []string{byTableSQL, lockTablesSQL} {
		if _, err := tx.Exec(ctx, s.sql(sql)); err != nil {
			return 0, err
		}
	}
	tag, err := tx.Exec(ctx, s.sql(dropLostSQL))
	if err != nil {
		return 0, err
	}
	for _, sql := range []string{recountMailboxesSQL, emptySharesSQL, recountSharesSQL} {
		if _, err := tx.Exec(ctx, s.sql(sql)); err != nil {
			return 0, err
		}
	}
	var stood int64
	if err := tx.QueryRow(ctx, s.sql(stoodSQL), clock).Scan(&stood); err != nil {
		return 0, err
	}
	for _, sql := range []string{emptyTotalSQL, byIndexSQL} {
		if _, err := tx.Exec(ctx, s.sql(sql)); err != nil {
			return 0, err
		}
	}
	_, err = tx.Exec(ctx, s.sql(recountTotalSQL), shards, stood)
	return tag.RowsAffected(), err
}

// report logs a loss.
func (m *meeting) report(log *slog.Logger) {
	if m.lost > 0 {
		log.Error("postgres: transactions are lost, since the mailboxes that they were in are gone", "transactions", m.lost)
	}
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matrixrelay/relay/store"
)

// An entry has one of these states; live ones are all that Next sees.
const (
	live     = 0 // waits to be fetched
	setAside = 1 // can't be read; kept for whoever wants to look, until it expires
)

// migrations bring the tables from the version that is their index to the next.
// Names and IDs are bytes: they may be no text, and are ordered as bytes.
var migrations = []string{`
CREATE TABLE {s}.mailbox ( -- a destination
	id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	destination bytea  NOT NULL UNIQUE,
	entries     bigint NOT NULL DEFAULT 0,
	bytes       bigint NOT NULL DEFAULT 0,
	set_aside   bigint NOT NULL DEFAULT 0,
	acked       bigint NOT NULL DEFAULT 0  -- no entry up to this ID is live
);
CREATE TABLE {s}.share (   -- what one origin has in a mailbox
	mailbox bigint NOT NULL,
	origin  bytea  NOT NULL,
	entries bigint NOT NULL,
	bytes   bigint NOT NULL,
	PRIMARY KEY (mailbox, origin)
);
CREATE TABLE {s}.total (   -- the shards together are the sum of all mailboxes
	shard     integer PRIMARY KEY,
	entries   bigint  NOT NULL DEFAULT 0,
	bytes     bigint  NOT NULL DEFAULT 0,
	set_aside bigint  NOT NULL DEFAULT 0
);
INSERT INTO {s}.total (shard) SELECT generate_series(0, {shards} - 1);
CREATE SEQUENCE {s}.entry_id AS bigint START {first} MAXVALUE {max}; -- see store.FirstID
CREATE TABLE {s}.entry (
	id       bigint   NOT NULL,
	mailbox  bigint   NOT NULL,
	until    bigint   NOT NULL,            -- milliseconds of the store's clock
	size     bigint   NOT NULL,
	checksum bigint   NOT NULL,
	state    smallint NOT NULL,
	copy_key bytea    NOT NULL PRIMARY KEY, -- what makes mail the same mail
	digest   bytea    NOT NULL,
	origin   bytea    NOT NULL,
	txn      bytea    NOT NULL,
	proof    bytea    NOT NULL,
	body     bytea    NOT NULL
);
CREATE UNIQUE INDEX entry_order ON {s}.entry (mailbox, id, until); -- passes over what has expired without reading rows
CREATE INDEX entry_until ON {s}.entry (until);
CREATE TABLE {s}.gone (    -- acknowledged or expired; recognises copies until then
	copy_key bytea  PRIMARY KEY,
	id       bigint NOT NULL,
	until    bigint NOT NULL
);
CREATE INDEX gone_until ON {s}.gone (until);
CREATE TABLE {s}.note (    -- what an embedder's own parts remember
	key   bytea PRIMARY KEY,
	value bytea NOT NULL
);
`, `
-- What was in total so far is that of the mailboxes of servers; the shards of
-- private ones come behind.
INSERT INTO {s}.total (shard) SELECT generate_series({shards}, 2 * {shards} - 1);
ALTER TABLE {s}.total ADD COLUMN clock bigint NOT NULL DEFAULT 0; -- the largest is the last; see store/internal/steady
-- It begins at the machine's time, by which until was reckoned before. If that is
-- before the tables were made, they know better; and it is no reason to expire
-- anything.
UPDATE {s}.total SET clock = least(
	greatest({first}, (SELECT last_value FROM {s}.entry_id)) / 1000,
	coalesce((SELECT min(until) FROM {s}.entry WHERE state = 0), 9223372036854775807) - 1);
`}

// migrate brings the tables to the newest version.
func migrate(ctx context.Context, pool *pgxpool.Pool, s schema, allowNoFsync bool) (m meeting, err error) {
	return s.alone(ctx, pool, 0, 0, allowNoFsync, func(tx pgx.Tx) error {
		version, err := s.version(ctx, tx)
		if err != nil {
			return err
		}
		if version > len(migrations) {
			return fmt.Errorf("the tables have version %d, this program knows up to %d", version, len(migrations))
		}
		for ; version < len(migrations); version++ {
			if err := s.step(ctx, tx, version); err != nil {
				return fmt.Errorf("migrate to version %d: %w", version+1, err)
			}
		}
		return nil
	})
}

var txOptions = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}

// A meeting is what a server says when it is to be written to.
type meeting struct {
	server string // what it is known by
	clock  int64  // where the store's clock stood when it was written last
}

// takeover is how many IDs are left out when another server is written to. At an
// opening none are: a store that is opened again and again would get ahead of
// store.FirstID, which then says nothing.
const takeover = 1_000_000

// alone does something in a transaction that others wait for, and makes sure
// that the IDs go on behind all that was given, at least behind lastID: the
// server may have been restored, or have taken over from one that was further.
func (s schema) alone(ctx context.Context, pool *pgxpool.Pool, lastID, skip int64, allowNoFsync bool, do func(pgx.Tx) error) (m meeting, err error) {
	err = pgx.BeginTxFunc(ctx, pool, txOptions, func(tx pgx.Tx) error {
		if _, err := checkSettings(tx.QueryRow(ctx, s.sql(settingsSQL)), allowNoFsync); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, lockSchemaSQL, s.lock()); err != nil {
			return err
		}
		if err := do(tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, s.sql(raiseIDsSQL), max(store.FirstID(time.Now()), lastID), skip); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, s.sql(clockSQL)).Scan(&m.clock); err != nil {
			return err
		}
		m.server, err = checkSettings(tx.QueryRow(ctx, s.sql(settingsSQL)), allowNoFsync) // the tables may be new
		return err
	})
	return m, err
}

// lock is the advisory lock of those who change the tables.
func (s schema) lock() int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("relay migrations of " + string(s))) // it never fails
	return int64(h.Sum64())
}

// version returns the version of the tables, 0 if there are none. It makes the
// schema if need be; where it is there, nobody needs the right to make one.
func (s schema) version(ctx context.Context, tx pgx.Tx) (version int, err error) {
	var there, versioned bool
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1),
		EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'version')`, string(s)).Scan(&there, &versioned)
	if err != nil {
		return 0, err
	}
	if versioned {
		err = tx.QueryRow(ctx, s.sql(`SELECT version FROM {s}.version`)).Scan(&version)
		return version, err
	}
	if !there {
		if _, err = tx.Exec(ctx, s.sql(`CREATE SCHEMA {s}`)); err != nil {
			return 0, err
		}
	}
	if _, err = tx.Exec(ctx, s.sql(`CREATE TABLE {s}.version (version integer NOT NULL)`)); err != nil {
		return 0, err
	}
	_, err = tx.Exec(ctx, s.sql(`INSERT INTO {s}.version VALUES (0)`))
	return 0, err
}

func (s schema) step(ctx context.Context, tx pgx.Tx, version int) error {
	values := strings.NewReplacer("{first}", fmt.Sprint(store.FirstID(time.Now())),
		"{max}", fmt.Sprint(int64(store.MaxID)), "{shards}", fmt.Sprint(shards))
	// The plain protocol takes several statements at once.
	if _, err := tx.Conn().PgConn().Exec(ctx, s.sql(values.Replace(migrations[version]))).ReadAll(); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, s.sql(`UPDATE {s}.version SET version = $1`), version+1)
	return err
}

var (
	errCommit = errors.New("the server doesn't wait for the disk: synchronous_commit can't be set")
	errFsync  = errors.New("the server doesn't wait for the disk: fsync is off")
)

// checkSettings reads what settingsSQL answers, and returns what the server is
// known by.
func checkSettings(row pgx.Row, allowNoFsync bool) (server string, err error) {
	var commit, fsync, other string
	if err := row.Scan(&commit, &fsync, &server, &other); err != nil {
		return "", err
	}
	if commit != "on" && commit != "remote_apply" {
		return "", errCommit
	}
	if fsync != "on" && !allowNoFsync {
		return "", errFsync
	}
	return server, nil
}

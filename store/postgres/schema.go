package postgres

import (
	"cmp"
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
	setAside = 1 // can't be read; kept for a human to look at, until it expires
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
`, `
ALTER TABLE {s}.version ADD COLUMN files text NOT NULL DEFAULT ''; -- of the tables when they were counted last
`}

// migrate brings the tables to the newest version.
func migrate(ctx context.Context, pool *pgxpool.Pool, s schema, allowNoFsync bool) (m meeting, err error) {
	return s.alone(ctx, pool, meeting{}, 0, allowNoFsync, func(tx pgx.Tx) error {
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

// A meeting has the facts of a server that is to be written to.
type meeting struct {
	server string // the name of it and its tables; see settings.known
	lastID int64  // that was given
	clock  int64  // where the store's clock stands
	lost   int64  // entries that were removed, since their mailbox is gone
}

// takeover is how many IDs are left out when another server is written to. At an
// opening none are: a store that is opened again and again would get ahead of
// store.FirstID, which then says nothing.
const takeover = 1_000_000

// alone does something in a transaction that others wait for, and makes sure
// that the tables are whole and that the IDs go on behind all that was given: the
// server may have been restored, or have taken over from one that was further.
func (s schema) alone(ctx context.Context, pool *pgxpool.Pool, m meeting, skip int64, allowNoFsync bool, do func(pgx.Tx) error) (meeting, error) {
	err := pgx.BeginTxFunc(ctx, pool, txOptions, func(tx pgx.Tx) error {
		found, err := readSettings(tx.QueryRow(ctx, s.sql(settingsSQL)))
		if err == nil {
			err = found.check(allowNoFsync)
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, lockSchemaSQL, s.lock()); err != nil {
			return err
		}
		if err := do(tx); err != nil {
			return err
		}
		if found, m.lost, err = s.whole(ctx, tx, m.clock); err != nil {
			return err
		}
		m.server = found.known()
		if _, err := tx.Exec(ctx, s.sql(raiseIDsSQL), max(store.FirstID(time.Now()), m.lastID), skip); err != nil {
			return err
		}
		return tx.QueryRow(ctx, s.sql(clockSQL)).Scan(&m.clock)
	})
	return m, err
}

// lock is the advisory lock for changing the tables.
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
		if errors.Is(err, pgx.ErrNoRows) {
			return 0, fmt.Errorf("%w: table version is empty", errGone)
		}
		return version, err
	}
	if missing, err := s.missing(ctx, tx); err != nil || len(missing) < len(relations) {
		return 0, cmp.Or(err, fmt.Errorf("%w: schema %s has some, but no table version", errGone, string(s)))
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

// settings are the answer to settingsSQL.
type settings struct{ commit, fsync, server, files, rest string }

func readSettings(row pgx.Row) (s settings, err error) {
	err = row.Scan(&s.commit, &s.fsync, &s.server, &s.files, &s.rest)
	return s, err
}

// known is a name of the server and its tables that tells them from others.
func (s *settings) known() string { return s.server + " " + s.files }

// check refuses a server that doesn't wait for the disk.
func (s *settings) check(allowNoFsync bool) error {
	if s.commit != "on" && s.commit != "remote_apply" {
		return errCommit
	}
	if s.fsync != "on" && !allowNoFsync {
		return errFsync
	}
	return nil
}

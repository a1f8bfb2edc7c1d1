package postgres

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// A schema is where the tables are. It stands before their names, since behind
// a pooler nobody knows what the search path is.
type schema string

// sql completes one of the statements below, where {s} stands for the schema,
// and {'s} likewise within a string.
func (s schema) sql(statement string) string {
	name := pgx.Identifier{string(s)}.Sanitize()
	return strings.NewReplacer("{s}", name, "{'s}", strings.ReplaceAll(name, "'", "''")).Replace(statement)
}

// channel is where destinations are named that have new mail.
func (s schema) channel() string { return "relay mail in " + string(s) }

// What a transaction that writes begins and ends with. It waits until its
// commit is on the disk, doesn't wait for ever for another one, and is ended by
// the server soon when its client has vanished. A server that has started since
// is known by another time, a database or tables that were made since by another
// number.
const (
	beginSQL    = `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`
	settingsSQL = `SELECT pg_catalog.set_config('synchronous_commit',
			CASE pg_catalog.current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true),
		pg_catalog.current_setting('fsync'), pg_catalog.concat_ws(' ', pg_catalog.pg_postmaster_start_time(),
			(SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()),
			pg_catalog.to_regclass('{'s}.entry')::pg_catalog.oid),
		pg_catalog.concat(pg_catalog.set_config('lock_timeout', '10s', true), pg_catalog.set_config('statement_timeout', '0', true),
			pg_catalog.set_config('idle_in_transaction_session_timeout', '10s', true),
			pg_catalog.set_config('client_min_messages', 'warning', true), ` + byIndex + `)`
	commitSQL   = `COMMIT`
	rollbackSQL = `ROLLBACK`
)

// byIndexSQL begins every other transaction. Whatever is looked for is found by
// an index, in its order: the server, whose statistics of tables that fill and
// empty are never right, isn't asked for its opinion. Without this it may read
// the whole of a deep mailbox and sort it for one entry. Behind it functions are
// the server's own, whatever somebody else has put into the search path.
const (
	byIndexSQL = `SELECT pg_catalog.concat(` + byIndex + `)`
	byIndex    = `pg_catalog.set_config('search_path', 'pg_catalog', true),
		pg_catalog.set_config('enable_seqscan', 'off', true), pg_catalog.set_config('enable_bitmapscan', 'off', true),
		pg_catalog.set_config('enable_hashjoin', 'off', true), pg_catalog.set_config('enable_mergejoin', 'off', true),
		pg_catalog.set_config('max_parallel_workers_per_gather', '0', true), pg_catalog.set_config('jit', 'off', true)`
)

// announceSQL is a transaction of its own, behind the commit, so that commits
// don't queue for the lock that the server takes for notifications. It needn't
// reach the disk: a server that has crashed has nobody listening.
const announceSQL = `SELECT pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify($1, $2)`

// What is done when a store is opened, and on another server than before.
const (
	lockSchemaSQL = `SELECT pg_advisory_xact_lock($1)`
	// A server that takes over may not know how far the one before was, and the
	// clocks need not agree: see takeover.
	raiseIDsSQL = `SELECT setval('{'s}.entry_id', greatest($1::bigint, last_value + CASE WHEN is_called THEN $2::bigint ELSE 0 END)) FROM {s}.entry_id`
	clockSQL    = `SELECT max(clock) FROM {s}.total`
)

// Mailboxes. Who holds the lock of one is alone in giving out its IDs, in
// adding to it and in taking from it.
const (
	newMailboxesSQL = `INSERT INTO {s}.mailbox (destination) SELECT d FROM unnest($1::bytea[]) d
		WHERE NOT EXISTS (SELECT FROM {s}.mailbox WHERE destination = d) ORDER BY d ON CONFLICT DO NOTHING`
	lockMailboxesSQL = `SELECT id, destination, entries, bytes FROM {s}.mailbox
		WHERE destination = ANY($1::bytea[]) ORDER BY destination FOR UPDATE`
	countMailboxesSQL = `UPDATE {s}.mailbox m SET entries = m.entries + d.entries, bytes = m.bytes + d.bytes,
			set_aside = m.set_aside + d.set_aside, acked = greatest(m.acked, d.acked)
		FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) d(id, entries, bytes, set_aside, acked)
		WHERE m.id = d.id`
	emptyMailboxesSQL = `SELECT id, entries = 0 AND set_aside = 0 FROM {s}.mailbox WHERE id > $1 ORDER BY id LIMIT $2`
	dropMailboxesSQL  = `DELETE FROM {s}.mailbox WHERE id = ANY(ARRAY(SELECT m.id FROM unnest($1::bigint[]) d(id), LATERAL
		(SELECT id FROM {s}.mailbox WHERE id = d.id AND entries = 0 AND set_aside = 0 FOR UPDATE SKIP LOCKED) m))`
	destinationsSQL = `SELECT destination FROM {s}.mailbox WHERE destination >= $1 AND entries > 0 ORDER BY destination LIMIT $2`
	usageSQL        = `SELECT entries, bytes, set_aside FROM {s}.mailbox WHERE destination = $1`
)

// The shares that origins have in mailboxes.
const (
	sharesSQL = `SELECT s.mailbox, s.origin, s.entries, s.bytes FROM unnest($1::bytea[], $2::bytea[]) w(destination, origin)
		JOIN {s}.mailbox m ON m.destination = w.destination JOIN {s}.share s ON s.mailbox = m.id AND s.origin = w.origin`
	countSharesSQL = `INSERT INTO {s}.share (mailbox, origin, entries, bytes)
		SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[])
		ON CONFLICT (mailbox, origin) DO UPDATE SET entries = share.entries + excluded.entries, bytes = share.bytes + excluded.bytes`
	dropSharesSQL = `DELETE FROM {s}.share WHERE ctid = ANY(ARRAY(SELECT s.ctid FROM unnest($1::bigint[], $2::bytea[]) d(mailbox, origin), LATERAL
		(SELECT ctid FROM {s}.share WHERE mailbox = d.mailbox AND origin = d.origin AND entries = 0 LIMIT 1) s))`
)

// The whole store: see total.go.
const (
	lockSomeShardsSQL = `SELECT shard FROM {s}.total WHERE shard = ANY($1::integer[]) ORDER BY shard FOR UPDATE`
	lockShardsSQL     = `SELECT shard FROM {s}.total ORDER BY shard FOR UPDATE`
	totalSQL          = `SELECT shard >= $1, sum(entries)::bigint, sum(bytes)::bigint, sum(set_aside)::bigint FROM {s}.total GROUP BY 1`
	countTotalSQL     = `UPDATE {s}.total SET entries = entries + $2, bytes = bytes + $3, set_aside = set_aside + $4,
		clock = greatest(clock, $5) WHERE shard = $1`

	// The clock is wherever a batch or this has written it last. Where all shards
	// are locked, batches write it.
	tickSQL = `WITH saved AS (UPDATE {s}.total SET clock = $1 WHERE shard =
			(SELECT shard FROM {s}.total WHERE clock < $1 ORDER BY shard LIMIT 1 FOR UPDATE SKIP LOCKED))
		SELECT max(clock) FROM {s}.total`
)

// Putting entries.
const (
	newIDsSQL = `SELECT nextval('{'s}.entry_id') FROM generate_series(1, $1::int)`
	knownSQL  = `SELECT copy_key, id FROM {s}.entry WHERE copy_key = ANY($1::bytea[])
		UNION ALL SELECT copy_key, id FROM {s}.gone WHERE copy_key = ANY($1::bytea[])`
	insertSQL = `INSERT INTO {s}.entry (state, id, mailbox, copy_key, until, size, origin, txn, digest, checksum, proof, body)
		SELECT 0, n.* FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[],
			$7::bytea[], $8::bytea[], $9::bigint[], $10::bytea[], $11::bytea[]) n`
)

// Removing entries: the dead are remembered until $1, and what they were is
// summed up. They are known by their place in the table, where they stay while
// the mailbox is locked.
const (
	ackSQL = `WITH dead AS (DELETE FROM {s}.entry WHERE ctid = ANY(ARRAY(SELECT ctid FROM {s}.entry
			WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $2)
				AND id > (SELECT acked FROM {s}.mailbox WHERE destination = $2) AND id <= $3 AND state = 0
				AND EXISTS (SELECT FROM {s}.entry WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $2) AND id = $3)
			ORDER BY id LIMIT $4))` + remembered
	expireSQL = `WITH dead AS (DELETE FROM {s}.entry WHERE ctid = ANY(ARRAY(SELECT ctid
			FROM (SELECT ctid, mailbox FROM {s}.entry WHERE until <= $2 ORDER BY until LIMIT $4) oldest
			WHERE mailbox IN (SELECT id FROM {s}.mailbox WHERE destination = ANY($3::bytea[]))))` + remembered
	remembered = ` RETURNING mailbox, id, copy_key, origin, state, size),
		remembered AS (INSERT INTO {s}.gone (copy_key, id, until) SELECT copy_key, id, $1::bigint FROM dead
			ON CONFLICT (copy_key) DO UPDATE SET id = excluded.id, until = excluded.until)
		SELECT mailbox, origin, state, count(*), sum(size)::bigint, max(id) FROM dead GROUP BY mailbox, origin, state`
	expiredSQL = `SELECT (SELECT destination FROM {s}.mailbox WHERE id = e.mailbox) FROM (SELECT DISTINCT mailbox
		FROM (SELECT mailbox FROM {s}.entry WHERE until <= $1 ORDER BY until LIMIT $2) oldest) e`
	setAsideSQL = `UPDATE {s}.entry SET state = 1
		WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $1) AND id = $2 AND state = 0
		RETURNING mailbox, origin, size`
	forgetSQL = `DELETE FROM {s}.gone WHERE ctid = ANY(ARRAY(SELECT ctid FROM {s}.gone
		WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED))`
)

// Reading entries: of the destination $1, behind the ID $2, not expired at $3,
// at most $4. Behind what was acknowledged, too: the rows that it left in the
// index until the next vacuum are not gone through.
const (
	liveSQL  = `SELECT id` + liveRows
	entrySQL = `SELECT ` + entryColumns + ` FROM {s}.entry WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $1) AND id = $2`
	nextSQL  = `SELECT ` + entryColumns + ` FROM (
			SELECT *, row_number() OVER page AS place, sum(size) OVER page AS running
			FROM (SELECT ` + entryColumns + liveRows + `) e WINDOW page AS (ORDER BY id ROWS UNBOUNDED PRECEDING)) e
		WHERE place = 1 OR running <= $5 ORDER BY id`
	liveRows = ` FROM {s}.entry WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $1)
		AND id > greatest($2::bigint, (SELECT acked FROM {s}.mailbox WHERE destination = $1))
		AND until > $3 AND state = 0 ORDER BY id LIMIT $4`
	entryColumns = `id, copy_key, origin, txn, digest, until, checksum, size, proof, body`
)

// Notes.
const (
	setNotesSQL = `INSERT INTO {s}.note (key, value) SELECT * FROM unnest($1::bytea[], $2::bytea[])
		ON CONFLICT (key) DO UPDATE SET value = excluded.value`
	dropNotesSQL = `DELETE FROM {s}.note WHERE key = ANY($1::bytea[])`
	notesSQL     = `SELECT key, value FROM {s}.note WHERE key > $1 AND key >= $2 ORDER BY key LIMIT $3`
)

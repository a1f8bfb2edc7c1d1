package postgres

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// A schema is where the tables are. It stands before their names, since behind
// a pooler the search path isn't known.
type schema string

// sql completes one of the statements below, where {s} stands for the schema,
// and {'s} likewise within a string.
func (s schema) sql(statement string) string {
	name := pgx.Identifier{string(s)}.Sanitize()
	return strings.NewReplacer("{s}", name, "{'s}", strings.ReplaceAll(name, "'", "''")).Replace(statement)
}

// channel is where destinations are named that have new mail.
func (s schema) channel() string { return "relay mail in " + string(s) }

// The beginning and the end of a transaction that writes. It waits until its
// commit is on the disk, doesn't wait for ever for another one, and is ended by
// the server soon when its client has vanished. A server that has started since
// is known by another time, a database or tables that were made or emptied since
// by other files.
const (
	beginSQL    = `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`
	settingsSQL = `SELECT pg_catalog.set_config('synchronous_commit',
			CASE pg_catalog.current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true),
		pg_catalog.current_setting('fsync'), pg_catalog.concat(pg_catalog.pg_postmaster_start_time()), pg_catalog.concat_ws(' ',
			(SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()),
			pg_catalog.pg_relation_filenode(pg_catalog.to_regclass('{'s}.mailbox')), pg_catalog.pg_relation_filenode(pg_catalog.to_regclass('{'s}.share')),
			pg_catalog.pg_relation_filenode(pg_catalog.to_regclass('{'s}.total')), pg_catalog.pg_relation_filenode(pg_catalog.to_regclass('{'s}.entry'))),
		pg_catalog.concat(pg_catalog.set_config('lock_timeout', '10s', true), pg_catalog.set_config('statement_timeout', '0', true),
			pg_catalog.set_config('idle_in_transaction_session_timeout', '10s', true),
			pg_catalog.set_config('client_min_messages', 'warning', true), ` + byIndex + `)`
	commitSQL   = `COMMIT`
	rollbackSQL = `ROLLBACK`
)

// byIndexSQL begins every other transaction. All rows are found by
// an index, in its order: the server, whose statistics of tables that fill and
// empty are never right, isn't asked for its opinion. Without this it may read
// the whole of a deep mailbox and sort it for one entry. Behind it functions are
// the server's own, even if somebody has put others into the search path.
const (
	byIndexSQL = `SELECT pg_catalog.concat(` + byIndex + `)`
	byIndex    = `pg_catalog.set_config('search_path', 'pg_catalog', true),
		pg_catalog.set_config('enable_seqscan', 'off', true), pg_catalog.set_config('enable_bitmapscan', 'off', true),
		pg_catalog.set_config('enable_hashjoin', 'off', true), pg_catalog.set_config('enable_mergejoin', 'off', true),
		pg_catalog.set_config('max_parallel_workers_per_gather', '0', true), pg_catalog.set_config('jit', 'off', true)`
)

// byTableSQL is for statements that go through whole tables, and not by their indexes.
const byTableSQL = `SELECT pg_catalog.concat(` + byIndex + `, pg_catalog.set_config('lock_timeout', '0', true),
	pg_catalog.set_config('enable_seqscan', 'on', true), pg_catalog.set_config('enable_hashjoin', 'on', true),
	pg_catalog.set_config('enable_indexscan', 'off', true), pg_catalog.set_config('enable_indexonlyscan', 'off', true))`

// announceSQL is a transaction of its own, behind the commit, so that commits
// don't queue for the lock that the server takes for notifications. It needn't
// reach the disk: a server that has crashed has nobody listening.
const announceSQL = `SELECT pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify($1, $2)`

// Statements for a store that is opened, and for another server than before.
const (
	lockSchemaSQL = `SELECT pg_advisory_xact_lock($1)`
	// A server that takes over may not know how far the one before was, and the
	// clocks need not agree: see takeover.
	raiseIDsSQL = `SELECT setval('{'s}.entry_id', greatest($1::bigint, last_value + CASE WHEN is_called THEN $2::bigint ELSE 0 END)) FROM {s}.entry_id`
	clockSQL    = `SELECT max(clock) FROM {s}.total`
)

// Whether the tables are there, and the mail in them, counted anew without their
// indexes.
const (
	missingSQL          = `SELECT r FROM unnest($1::text[]) WITH ORDINALITY all_of(r, n) WHERE to_regclass('{'s}.' || r) IS NULL ORDER BY n`
	lockTablesSQL       = `LOCK TABLE {s}.mailbox, {s}.share, {s}.total, {s}.entry IN EXCLUSIVE MODE`
	dropLostSQL         = `DELETE FROM {s}.entry e WHERE NOT EXISTS (SELECT FROM {s}.mailbox m WHERE m.id = e.mailbox)`
	recountMailboxesSQL = `UPDATE {s}.mailbox m SET entries = c.entries, bytes = c.bytes, set_aside = c.set_aside
		FROM (SELECT o.id, count(e.id) FILTER (WHERE e.state = 0) AS entries, coalesce(sum(e.size) FILTER (WHERE e.state = 0), 0) AS bytes,
			count(e.id) FILTER (WHERE e.state <> 0) AS set_aside FROM {s}.mailbox o LEFT JOIN {s}.entry e ON e.mailbox = o.id GROUP BY o.id) c
		WHERE m.id = c.id AND (m.entries, m.bytes, m.set_aside) IS DISTINCT FROM (c.entries, c.bytes, c.set_aside)`
	emptySharesSQL   = `DELETE FROM {s}.share`
	recountSharesSQL = `INSERT INTO {s}.share (mailbox, origin, entries, bytes)
		SELECT mailbox, origin, count(*), sum(size) FROM {s}.entry WHERE state = 0 GROUP BY mailbox, origin`
	// If nobody knows where the clock stood, it goes on where the IDs do, and not
	// so far that anything expires.
	stoodSQL = `SELECT greatest($1::bigint, coalesce((SELECT max(clock) FROM {s}.total), least((SELECT last_value FROM {s}.entry_id) / 1000,
		coalesce((SELECT min(until) FROM {s}.entry WHERE state = 0), 9223372036854775807) - 1)))`
	emptyTotalSQL   = `DELETE FROM {s}.total`
	recountTotalSQL = `INSERT INTO {s}.total (shard, entries, bytes, set_aside, clock)
		SELECT n, CASE WHEN n % $1 = 0 THEN c.entries ELSE 0 END, CASE WHEN n % $1 = 0 THEN c.bytes ELSE 0 END,
			CASE WHEN n % $1 = 0 THEN c.set_aside ELSE 0 END, $2
		FROM generate_series(0, 2 * $1 - 1) n, LATERAL (SELECT coalesce(sum(entries), 0) AS entries, coalesce(sum(bytes), 0) AS bytes,
			coalesce(sum(set_aside), 0) AS set_aside FROM {s}.mailbox WHERE (n >= $1) = (substr(destination, 1, 1) = '\x7e')) c`
)

// Mailboxes. The transaction that holds the lock of one is alone in giving out its
// IDs, in adding to it and in taking from it.
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

// Removing entries: the dead are remembered until $1, and their counts and sizes are
// summed up. They are known by their place in the table, where they stay while
// the mailbox is locked. The row there counts, and not an index that may
// be damaged: the sums keep the server from asking it.
const (
	ackSQL = `WITH dead AS (DELETE FROM {s}.entry WHERE ctid = ANY(ARRAY(SELECT ctid FROM {s}.entry
			WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $2)
				AND id > (SELECT acked FROM {s}.mailbox WHERE destination = $2) AND id <= $3 AND state = 0
				AND EXISTS (SELECT FROM {s}.entry WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $2) AND id = $3)
			ORDER BY id LIMIT $4)) AND mailbox + 0 = (SELECT id FROM {s}.mailbox WHERE destination = $2) AND id + 0 <= $3` + remembered
	ackAtSQL = `WITH dead AS (DELETE FROM {s}.entry WHERE ctid = ANY($3::text[]::tid[])
		AND mailbox + 0 = (SELECT id FROM {s}.mailbox WHERE destination = $2) AND id + 0 = ANY($4::bigint[]) AND state = 0` + remembered
	expireSQL = `WITH dead AS (DELETE FROM {s}.entry WHERE ctid = ANY(ARRAY(SELECT ctid
			FROM (SELECT ctid, mailbox FROM {s}.entry WHERE until <= $2 ORDER BY until LIMIT $4) oldest
			WHERE mailbox IN (SELECT id FROM {s}.mailbox WHERE destination = ANY($3::bytea[]))))` + remembered
	remembered = ` RETURNING mailbox, id, copy_key, origin, state, size),
		remembered AS (INSERT INTO {s}.gone (copy_key, id, until) SELECT copy_key, id, $1::bigint FROM dead
			ON CONFLICT (copy_key) DO UPDATE SET id = excluded.id, until = excluded.until)
		SELECT mailbox, origin, state, count(*), sum(size)::bigint, max(id), array_agg(copy_key ORDER BY id)
			FROM dead GROUP BY mailbox, origin, state`
	expiredSQL = `SELECT (SELECT destination FROM {s}.mailbox WHERE id = e.mailbox) FROM (SELECT DISTINCT mailbox
		FROM (SELECT mailbox FROM {s}.entry WHERE until <= $1 ORDER BY until LIMIT $2) oldest) e`
	setAsideSQL = `UPDATE {s}.entry SET state = 1 WHERE ctid = ANY(ARRAY(SELECT ctid FROM {s}.entry
			WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $1) AND id = $2))
		AND mailbox + 0 = (SELECT id FROM {s}.mailbox WHERE destination = $1) AND id + 0 = $2 AND state = 0
		RETURNING mailbox, origin, size`
	forgetSQL = `DELETE FROM {s}.gone WHERE ctid = ANY(ARRAY(SELECT ctid FROM {s}.gone
		WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED))`
	forgetKeysSQL = `DELETE FROM {s}.gone WHERE ctid = ANY(ARRAY(SELECT ctid FROM {s}.gone
		WHERE copy_key = ANY($1::bytea[]) FOR UPDATE SKIP LOCKED))`
	countGoneSQL = `SELECT count(*) FROM {s}.gone`
)

// Reading entries: of the destination $1, behind the ID $2, not expired at $3,
// at most $4. Behind acknowledged entries, too: the rows that they left in the
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
	whereSQL  = `SELECT id, pg_relation_size('{'s}.entry') / current_setting('block_size')::bigint FROM {s}.mailbox WHERE destination = $1`
	placesSQL = `SELECT id, until, state = 0, ctid::text FROM {s}.entry WHERE ctid >= ('(' || $1::bigint || ',0)')::tid
		AND ctid < ('(' || $2::bigint || ',0)')::tid AND mailbox + 0 = $3 AND id + 0 > $4`
	entryAtSQL   = `SELECT ` + entryColumns + ` FROM {s}.entry WHERE ctid = $1::text::tid AND mailbox + 0 = $2 AND id + 0 = $3`
	entryColumns = `id, copy_key, origin, txn, digest, until, checksum, size, proof, body`
)

// The room that the tables and their indexes take.
const sizesSQL = `SELECT coalesce(sum(pg_total_relation_size(to_regclass('{'s}.' || r))), 0)::bigint FROM unnest($1::text[]) r`

// Notes.
const (
	setNotesSQL = `INSERT INTO {s}.note (key, value) SELECT * FROM unnest($1::bytea[], $2::bytea[])
		ON CONFLICT (key) DO UPDATE SET value = excluded.value`
	dropNotesSQL = `DELETE FROM {s}.note WHERE key = ANY($1::bytea[])`
	notesSQL     = `SELECT key, value FROM {s}.note WHERE key > $1 AND key >= $2 ORDER BY key LIMIT $3`
)

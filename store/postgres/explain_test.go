//go:build unix

package postgres

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// deepRows fill the tables as a relay's might be: one mailbox with 100,000
// entries and 2,000 with 20, some of them expired, and some that were removed.
var deepRows = []string{
	`INSERT INTO {s}.mailbox (destination, entries, bytes)
		SELECT convert_to('d' || n, 'UTF8'), CASE n WHEN 0 THEN 100000 ELSE 20 END, 1000 FROM generate_series(0, 2000) n`,
	`INSERT INTO {s}.entry (id, mailbox, until, size, checksum, state, copy_key, digest, origin, txn, proof, body)
		SELECT nextval('{'s}.entry_id'), CASE WHEN n < 100000 THEN 1 ELSE 2 + n % 2000 END, $1::bigint + n * 1000::bigint,
			600, 0, 0, substr(sha256(int8send(n)), 1, 16), sha256('x'), convert_to('o' || n % 50, 'UTF8'),
			convert_to('t' || n, 'UTF8'), '', repeat('body', 150)::bytea FROM generate_series(0, 139999) n`,
	`INSERT INTO {s}.share SELECT id, convert_to('o' || n, 'UTF8'), 10, 1000 FROM {s}.mailbox, generate_series(0, 9) n`,
	`INSERT INTO {s}.gone SELECT substr(sha256(int8send(n + 1000000)), 1, 16), n, $1::bigint + n * 1000 FROM generate_series(0, 99999) n`,
	`INSERT INTO {s}.note SELECT convert_to('n' || n, 'UTF8'), 'x' FROM generate_series(0, 9999) n`,
}

// TestPlans asks the server how it goes about every statement: it must never go
// through a table, nor through more of an index than it has to, whether it knows
// the content of the tables or not.
func TestPlans(t *testing.T) {
	options := fresh(t)
	options.SweepInterval = time.Hour
	s := open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	for _, table := range []string{"mailbox", "share", "entry", "gone", "note"} {
		execute(t, options, `ALTER TABLE {s}.`+table+` SET (autovacuum_enabled = off)`)
	}
	t.Run("with the plans for empty tables", func(t *testing.T) {
		execute(t, options, `ANALYZE {s}.mailbox, {s}.share, {s}.entry, {s}.gone, {s}.note, {s}.total`)
		kept := keepPlans(t, s)
		fill(t, options)
		testPlans(t, s, s.explain)
		testPlans(t, s, kept)
	})
	t.Run("with the plans for full ones", func(t *testing.T) {
		execute(t, options, `ANALYZE {s}.mailbox, {s}.share, {s}.entry, {s}.gone, {s}.note, {s}.total`)
		testPlans(t, s, s.explain)
	})
}

// keepPlans has the server prepare the statements and make plans for them that
// it keeps. The function that it returns shows how it then goes about them.
func keepPlans(t *testing.T, s *Store) func(tb testing.TB, sql string, args ...any) string {
	conn, prepared := dial(t, s.options.ConnString), make(map[string]string)
	_, err := conn.Exec(t.Context(), `SET plan_cache_mode = force_generic_plan`)
	require.NoError(t, err)
	execute := func(tb testing.TB, explain, sql string, args ...any) string {
		values := make([]string, len(args))
		for i := range args {
			values[i] = fmt.Sprint("$", i+1)
		}
		call := explain + prepared[sql] + "(" + strings.Join(values, ", ") + ")"
		return undone(tb, conn, call, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	}
	for i, q := range questions(1) {
		if prepared[q.sql] == "" {
			prepared[q.sql] = fmt.Sprint("kept", i)
			_, err := conn.Exec(t.Context(), "PREPARE "+prepared[q.sql]+" AS "+s.schema().sql(q.sql))
			require.NoError(t, err)
			execute(t, `EXPLAIN EXECUTE `, q.sql, q.args...)
		}
	}
	return func(tb testing.TB, sql string, args ...any) string {
		return execute(tb, `EXPLAIN (ANALYZE, BUFFERS) EXECUTE `, sql, args...)
	}
}

func fill(t *testing.T, options Options) {
	for _, rows := range deepRows {
		if strings.Contains(rows, "$1") {
			execute(t, options, rows, time.Now().UnixMilli()-500_000)
		} else {
			execute(t, options, rows)
		}
	}
}

func testPlans(t *testing.T, s *Store, explain func(tb testing.TB, sql string, args ...any) string) {
	for _, q := range questions(s.firstID(t, "d0")) {
		t.Run(q.name, func(t *testing.T) {
			plan := explain(t, q.sql, q.args...)
			require.NotRegexp(t, `Seq Scan on (mailbox|share|entry|gone|note)`, plan)
			require.LessOrEqual(t, blocks(t, plan), 20+14*q.rows, "blocks that it looked at:\n%s", plan)
		})
	}
}

// A question is a statement, and how many rows it is about, which its cost may
// depend on.
type question struct {
	rows      int
	name, sql string
	args      []any
}

// questions are about the rows that fill makes, of which the deep mailbox
// begins with that ID.
func questions(first int64) []question {
	now := time.Now().UnixMilli()
	names, origins, keys, ids := make([][]byte, 256), make([][]byte, 256), make([][]byte, 256), make([]int64, 256)
	for i := range names {
		names[i], origins[i], ids[i] = fmt.Append(nil, "d", i), fmt.Append(nil, "o", i%10), int64(i+1)
		keys[i] = fmt.Appendf(nil, "a new key %06d", i)
	}
	deep, shallow, middle := names[0], names[1], first+50_000
	middleIDs := make([]int64, 256)
	for i := range middleIDs {
		middleIDs[i] = middle + int64(i)
	}
	return []question{
		{256, "new mailboxes", newMailboxesSQL, []any{names}},
		{1, "lock one mailbox", lockMailboxesSQL, []any{[][]byte{deep}}},
		{256, "lock mailboxes", lockMailboxesSQL, []any{names}},
		{256, "count mailboxes", countMailboxesSQL, []any{ids, ids, ids, ids, ids}},
		{256, "shares", sharesSQL, []any{names, origins}},
		{256, "count shares", countSharesSQL, []any{ids, origins, ids, ids}},
		{256, "drop shares", dropSharesSQL, []any{ids, origins}},
		{256, "known", knownSQL, []any{keys}},
		{1, "known one", knownSQL, []any{keys[:1]}},
		{256, "insert", insertSQL, []any{ids, ids, keys, ids, ids, origins, keys, keys, ids, keys, keys}},
		{1, "ack one", ackSQL, []any{now, deep, first, step}},
		{step, "ack many", ackSQL, []any{now, deep, middle, step}},
		{0, "ack an entry that isn't there", ackSQL, []any{now, deep, 1 << 52, step}},
		{step, "expired", expiredSQL, []any{now, step}},
		{step, "expire", expireSQL, []any{now, now, [][]byte{deep}, step}},
		{step, "forget", forgetSQL, []any{now, step}},
		{1, "set aside", setAsideSQL, []any{deep, middle}},
		{step, "empty mailboxes", emptyMailboxesSQL, []any{0, step}},
		{256, "drop mailboxes", dropMailboxesSQL, []any{ids}},
		{1, "next", nextSQL, []any{deep, 0, now, 1, 1 << 20}},
		{page, "next of many", nextSQL, []any{deep, middle, now, page, math.MaxInt64}},
		{20, "next of a shallow one", nextSQL, []any{shallow, 0, now, page, math.MaxInt64}},
		{0, "next of nobody", nextSQL, []any{[]byte("nobody"), 0, now, page, math.MaxInt64}},
		{1, "one entry", entrySQL, []any{deep, middle}},
		{1, "live", liveSQL, []any{deep, 0, now, 1}},
		{100, "list", listSQL, []any{deep, middle, now, 100}},
		{10, "senders", sendersOfSQL, []any{deep, 100}},
		{100, "recipients", recipientsSQL, []any{[]byte("d1"), 100, origins[1]}},
		{256, "remove", removeSQL, []any{now, deep, middleIDs}},
		{100, "destinations", destinationsSQL, []any{[]byte("d1"), 100}},
		{1, "usage", usageSQL, []any{deep}},
		{2, "lock shards", lockSomeShardsSQL, []any{[]int{3, shards + 3}}},
		{1, "count total", countTotalSQL, []any{3, 1, 1, 1, now}},
		{256, "set notes", setNotesSQL, []any{keys, keys}},
		{256, "drop notes", dropNotesSQL, []any{keys}},
		{100, "notes", notesSQL, []any{[]byte("n5"), []byte("n"), 100}},
	}
}

// Acknowledged entries cost the next answer nothing, though the server has
// not cleaned up behind it.
func TestNextBehindTheDead(t *testing.T) {
	options := fresh(t)
	s := open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	execute(t, options, `ALTER TABLE {s}.entry SET (autovacuum_enabled = off)`)
	putMany(t, 3000, s)
	entries, err := s.Next(t.Context(), "b", 0, 3000, math.MaxInt64)
	require.NoError(t, err)
	removed, err := s.Ack(t.Context(), "b", entries[2899].ID)
	require.NoError(t, err)
	require.Equal(t, 2900, removed)
	plan := s.explain(t, nextSQL, []byte("b"), 0, time.Now().UnixMilli(), 1, 1<<20)
	require.LessOrEqual(t, blocks(t, plan), 20, plan)
	left, err := s.Next(t.Context(), "b", 0, 3000, math.MaxInt64)
	require.NoError(t, err)
	require.Equal(t, entries[2900:], left)
}

// firstID is that of the oldest entry, which isn't one that Next would return.
func (s *Store) firstID(tb testing.TB, destination string) (id int64) {
	tb.Helper()
	err := s.pool.QueryRow(tb.Context(), s.schema().sql(`SELECT min(id) FROM {s}.entry
		WHERE mailbox = (SELECT id FROM {s}.mailbox WHERE destination = $1)`), []byte(destination)).Scan(&id)
	require.NoError(tb, err)
	return id
}

// explain does a statement, undoes it and returns the plan.
func (s *Store) explain(tb testing.TB, sql string, args ...any) string {
	tb.Helper()
	conn, err := s.pool.Acquire(tb.Context())
	require.NoError(tb, err)
	defer conn.Release()
	return undone(tb, conn.Conn(), `EXPLAIN (ANALYZE, BUFFERS) `+s.schema().sql(sql), args...)
}

func undone(tb testing.TB, conn *pgx.Conn, sql string, args ...any) string {
	tb.Helper()
	tx, err := conn.Begin(tb.Context())
	require.NoError(tb, err)
	_, err = tx.Exec(tb.Context(), byIndexSQL)
	require.NoError(tb, err)
	defer func() { require.NoError(tb, tx.Rollback(tb.Context())) }()
	rows, err := tx.Query(tb.Context(), sql, args...)
	require.NoError(tb, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(tb, err)
	return strings.Join(lines, "\n")
}

var buffers = regexp.MustCompile(`Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?`)

// blocks is how many blocks of tables and indexes a plan looked at.
func blocks(tb testing.TB, plan string) (sum int) {
	tb.Helper()
	found := buffers.FindStringSubmatch(plan) // the first is that of the whole
	require.NotNil(tb, found, plan)
	for _, n := range found[1:] {
		if n != "" {
			blocks, err := strconv.Atoi(n)
			require.NoError(tb, err)
			sum += blocks
		}
	}
	return sum
}

//go:build unix

package postgres

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// backup keeps the content of the tables, and returns how to put it back.
func backup(tb testing.TB, options Options) (setBack func(testing.TB)) {
	tb.Helper()
	tables := []string{"mailbox", "share", "total", "entry", "gone", "note"}
	kept := fmt.Sprint("kept", newID())
	execute(tb, options, `CREATE SCHEMA `+kept)
	for _, table := range tables {
		execute(tb, options, `CREATE TABLE `+kept+`.`+table+` AS TABLE {s}.`+table)
	}
	execute(tb, options, `CREATE TABLE `+kept+`.id AS SELECT last_value, is_called FROM {s}.entry_id`)
	return func(tb testing.TB) {
		for _, table := range tables {
			execute(tb, options, `TRUNCATE {s}.`+table)
			execute(tb, options, `INSERT INTO {s}.`+table+` OVERRIDING SYSTEM VALUE TABLE `+kept+`.`+table)
		}
		execute(tb, options, `SELECT setval('{'s}.entry_id', last_value, is_called) FROM `+kept+`.id`)
	}
}

// A store that goes on while its database is set back notices that at its next
// Put, and gives no ID again.
func TestSetBackMeanwhile(t *testing.T) {
	options := fresh(t)
	s := open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	putMany(t, 3, s)
	setBack := backup(t, options)
	_, err := s.Put(t.Context(), mail(10), store.Limits{})
	require.NoError(t, err)
	entries, err := s.Next(t.Context(), "b", 0, 10, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, entries, 4)
	setBack(t)
	_, err = s.Put(t.Context(), mail(11), store.Limits{})
	require.NoError(t, err)
	removed, err := s.Ack(t.Context(), "b", entries[3].ID)
	require.NoError(t, err)
	require.Zero(t, removed, "nobody has seen the mail that is there now")
	left, err := s.Next(t.Context(), "b", 0, 10, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, left, 4)
	require.Greater(t, left[3].ID, entries[3].ID)
}

// Tables of version 1 get the store's clock and the private half, and lose
// nothing, not even mail that has expired by the machine's time.
func TestMigrateFromVersion1(t *testing.T) {
	options := fresh(t)
	options.SweepInterval = 10 * time.Millisecond
	s := open(t, options)
	putMany(t, 20, s)
	require.NoError(t, s.Close())
	execute(t, options, `ALTER TABLE {s}.total DROP COLUMN clock`)
	execute(t, options, `ALTER TABLE {s}.version DROP COLUMN files`)
	execute(t, options, `DELETE FROM {s}.total WHERE shard >= $1`, shards)
	execute(t, options, `UPDATE {s}.version SET version = 1`)
	s = open(t, options)
	private := mail(30)
	private.Destination = store.Private("outbox", "b")
	_, err := s.Put(t.Context(), private, store.Limits{StoreEntries: 1})
	require.NoError(t, err)
	for half, want := range map[string]int64{"": 20, "~": 1} {
		usage, err := s.Usage(t.Context(), store.PrivateHalf[:len(half)])
		require.NoError(t, err)
		require.Equal(t, want, usage.Entries)
	}
	require.InDelta(t, time.Now().UnixMilli(), s.clock.Now(), float64(patience.Milliseconds()), "it begins where the other stood")
	require.NoError(t, s.Close())
	s = open(t, options)
	entries, err := s.Next(t.Context(), "b", 0, 100, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, entries, 20)
	require.NoError(t, s.Close())
}

// The clock's time outlives the store, also that of another process, and
// counts nothing while no process has the store open.
func TestClockGoesOn(t *testing.T) {
	options := fresh(t)
	first, second := open(t, options), open(t, options)
	first.clock.Raise(first.clock.Now() + time.Hour.Milliseconds())
	stood := first.clock.Now()
	require.NoError(t, first.Close())
	require.Less(t, second.clock.Now(), stood)
	require.NoError(t, second.tick(t.Context()))
	require.GreaterOrEqual(t, second.clock.Now(), stood)
	require.NoError(t, second.Close())
	third := open(t, options)
	require.GreaterOrEqual(t, third.clock.Now(), stood)
	require.Less(t, third.clock.Now(), stood+time.Hour.Milliseconds())
	require.NoError(t, third.Close())
}

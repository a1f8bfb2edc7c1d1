package postgres

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
)

// The total of each half of the store is in shards, so that processes don't wait
// for each other to count it. A batch changes one, or one of each half.
//
// A limit of the whole store is kept in one of two ways. While there is room
// for a batch in every shard, a batch locks its shard before it reads the total:
// so at most one batch for each shard is under way that isn't in the total
// yet, and together they don't exceed the limit. When there may not be so much
// room (the store is tight), a batch locks all shards first; then nobody else
// is under way, and the total is exact.
const (
	shards = 16

	// fastBytes bounds a batch that locks one shard only.
	fastBytes = 2 * group.MaxBytes

	spareEntries = shards * group.MaxJobs
	spareBytes   = shards * fastBytes
)

// halves are the counts of the mailboxes of servers, and of the private ones.
type halves [2]counts

// halfOf returns the half in which a mailbox of that name is.
func halfOf(name spec.ServerName) int {
	if store.IsPrivate(name) {
		return 1
	}
	return 0
}

// shardIn is the number of a shard of that half.
func shardIn(half, shard int) int { return half*shards + shard }

// scan reads the rows of totalSQL.
func (h *halves) scan(rows pgx.Rows) error {
	for rows.Next() {
		var private bool
		var c counts
		if err := rows.Scan(&private, &c.entries, &c.bytes, &c.setAside); err != nil {
			return fmt.Errorf("total: %w", err)
		}
		if private {
			h[1] = c
		} else {
			h[0] = c
		}
	}
	return rows.Err()
}

// errTight says that the batch must run again with all shards locked.
var errTight = errors.New("the store is nearly full")

// askForTotal queues the locks and the reading of the total.
func (b *batch) askForTotal(q *pgx.Batch) {
	if b.exact {
		q.Queue(b.schema.sql(lockShardsSQL))
	} else {
		var of []int
		for half, touched := range b.touched {
			if touched {
				of = append(of, shardIn(half, b.shard))
			}
		}
		q.Queue(b.schema.sql(lockSomeShardsSQL), of)
	}
	// In a statement of its own, to see everything committed before the locks.
	q.Queue(b.schema.sql(totalSQL), shards).Query(func(rows pgx.Rows) error {
		b.knowsTotal = true
		return b.total.scan(rows)
	})
}

// fitsTotal reports whether that half of the store has room for one more entry
// of that size.
func (b *batch) fitsTotal(half int, size, maxEntries, maxBytes int64) bool {
	have := b.total[half].plus(b.change[half]).plus(counts{entries: 1, bytes: size})
	spare := have.plus(counts{entries: spareEntries, bytes: spareBytes})
	if !spare.within(maxEntries, maxBytes) {
		b.tight = true
	}
	return have.within(maxEntries, maxBytes)
}

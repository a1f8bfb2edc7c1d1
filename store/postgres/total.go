package postgres

import (
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/matrixrelay/relay/store/internal/group"
)

// The total of the store is in shards, so that processes don't wait for each
// other to count it. A batch changes one.
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

// errTight says that the batch must run again with all shards locked.
var errTight = errors.New("the store is nearly full")

// askForTotal queues the locks and the reading of the total.
func (b *batch) askForTotal(q *pgx.Batch) {
	if b.exact {
		q.Queue(b.schema.sql(lockShardsSQL))
	} else {
		q.Queue(b.schema.sql(lockShardSQL), b.shard)
	}
	// In a statement of its own, to see what was committed before the locks.
	q.Queue(b.schema.sql(totalSQL)).QueryRow(func(row pgx.Row) error {
		b.knowsTotal = true
		return b.total.scan(row)
	})
}

// fitsTotal reports whether the store has room for one more entry of that size.
func (b *batch) fitsTotal(size, maxEntries, maxBytes int64) bool {
	have := b.total.plus(b.change).plus(counts{entries: 1, bytes: size})
	spare := have.plus(counts{entries: spareEntries, bytes: spareBytes})
	if !spare.within(maxEntries, maxBytes) {
		b.tight = true
	}
	return have.within(maxEntries, maxBytes)
}

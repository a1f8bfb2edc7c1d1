package postgres

import (
	"context"
	"math"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/copies"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// remembering bounds the rows of the table gone. The ledger lists those that this process has
// made; only the writer uses it.
type remembering struct {
	limits  copies.Limits
	listed  *copies.Ledger[seal.Key]
	counted atomic.Int64 // all rows, at the last sweep
}

func newRemembering(o Options) *remembering {
	r := &remembering{limits: copies.LimitsOf(o.MaxCopies, o.MaxCopiesOfOrigin)}
	r.unlist()
	return r
}

// unlist begins a new ledger, after a commit that failed.
func (r *remembering) unlist() { r.listed = copies.New[seal.Key](r.limits) }

// A burial are the keys of entries of one origin that were removed, the oldest first.
type burial struct {
	origin spec.ServerName
	keys   [][]byte
}

// queueForgetting has the batch forget as many copies as there are too many with those
// that it has added. It comes when nothing can end the batch but its commit.
func (b *batch) queueForgetting(q *pgx.Batch) {
	if len(b.buried) == 0 || !b.copies.limits.AreAny() {
		return
	}
	listed := b.copies.listed
	listed.Expire(b.now, func(seal.Key) {})
	for _, burial := range b.buried {
		for _, key := range burial.keys {
			if len(key) == len(seal.Key{}) { // not one that is damaged
				listed.Add(burial.origin, seal.Key(key), b.forget)
			}
		}
	}
	var forget [][]byte
	for {
		key, _, isOver := listed.Over(0)
		if !isOver {
			break
		}
		forget = append(forget, key[:])
	}
	if len(forget) > 0 {
		q.Queue(b.schema.sql(forgetKeysSQL), forget)
	}
}

// sweepCopies counts the copies of all processes, and forgets the oldest of too many.
func (s *Store) sweepCopies(ctx context.Context) error {
	var rows int64
	err := s.reader.query(ctx, "count copies", func(r pgx.Rows) (err error) {
		rows, err = pgx.CollectExactlyOneRow(r, pgx.RowTo[int64])
		return err
	}, countGoneSQL)
	for err == nil && rows > s.copies.limits.All {
		var n int64
		n, err = s.sweep(ctx, forgetSQL, int64(math.MaxInt64), min(rows-s.copies.limits.All, step))
		if n == 0 { // others do it
			break
		}
		rows -= n
	}
	if err == nil {
		s.copies.counted.Store(rows)
	}
	return err
}

var _ store.Measured = (*Store)(nil)

// Sizes implements store.Measured. The copies are those at the last sweep, and the log is
// the server's.
func (s *Store) Sizes(ctx context.Context) (sizes store.Sizes, err error) {
	if err := s.usable(ctx); err != nil {
		return store.Sizes{}, err
	}
	err = s.reader.query(ctx, "sizes", func(rows pgx.Rows) (err error) {
		sizes.File, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
		return err
	}, sizesSQL, relations)
	sizes.Copies = s.copies.counted.Load()
	return sizes, s.closedOr(ctx, err)
}

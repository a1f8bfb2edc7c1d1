//go:build unix

package postgres

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
)

const benchPutters, benchBytes = 64, 8 << 10

// BenchmarkPutToBare compares the store with the least that a client could do
// to have the same bytes on the disk: a table with a key, and one statement for
// each batch of the puts that have queued up, committed in one round trip. The ratio is
// that of the rates; both take turns in the same run.
func BenchmarkPutToBare(b *testing.B) {
	for _, destinations := range []int{1, benchPutters} {
		b.Run(fmt.Sprint("destinations=", destinations), func(b *testing.B) {
			options := fresh(b)
			s := open(b, options)
			defer func() { require.NoError(b, s.Close()) }()
			execute(b, options, `CREATE TABLE {s}.bare (key bytea PRIMARY KEY, body bytea NOT NULL)`)
			plain := newBare(b, s)
			defer plain.queue.Close()
			limits := store.Limits{Entries: 1 << 40, Bytes: 1 << 40, OriginEntries: 1 << 40, OriginBytes: 1 << 40, StoreEntries: 1 << 40, StoreBytes: 1 << 40}
			body := bodyOf(store.Digest{}, benchBytes)
			put := func(n int) error {
				m := mail(n)
				m.Destination, m.Body = spec.ServerName(fmt.Sprint("d", n%destinations)), body
				_, err := s.Put(context.Background(), m, limits)
				return err
			}
			bare := func(n int) error { return plain.put(n, body) }
			var next [2]atomic.Int64
			var took [2]time.Duration
			b.SetBytes(benchBytes)
			for done := 0; done < b.N; done += 1000 {
				turn := min(1000, b.N-done)
				took[0] += many(b, turn, &next[0], put)
				b.StopTimer()
				took[1] += many(b, turn, &next[1], bare)
				b.StartTimer()
			}
			b.ReportMetric(float64(b.N)/took[0].Seconds(), "puts/s")
			b.ReportMetric(float64(b.N)/took[1].Seconds(), "bare/s")
			b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "ratio")
		})
	}
}

// many does something n times from many goroutines and returns how long it
// took.
func many(b *testing.B, n int, next *atomic.Int64, do func(n int) error) time.Duration {
	start := time.Now()
	last := next.Load() + int64(n)
	var all sync.WaitGroup
	for range benchPutters {
		all.Go(func() {
			for {
				number := next.Add(1)
				if number > last {
					return
				}
				if err := do(int(number)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	next.Store(last)
	return time.Since(start)
}

// A bare client inserts rows.
type bare struct {
	pool  *pgxpool.Pool
	sql   string
	queue *group.Queue[[2][]byte]
}

func newBare(b *testing.B, s *Store) *bare {
	p := &bare{pool: s.pool, sql: s.schema().sql(`INSERT INTO {s}.bare SELECT * FROM unnest($1::bytea[], $2::bytea[])`)}
	p.queue = group.New(func(jobs []*group.Job[[2][]byte]) {
		var keys, bodies [][]byte
		for _, j := range jobs {
			keys, bodies = append(keys, j.Work[0]), append(bodies, j.Work[1])
		}
		q := &pgx.Batch{}
		q.Queue(`BEGIN`)
		q.Queue(p.sql, keys, bodies)
		q.Queue(`COMMIT`)
		if err := p.pool.SendBatch(context.Background(), q).Close(); err != nil {
			b.Error(err)
		}
	}, nil)
	return p
}

func (p *bare) put(n int, body []byte) error {
	m := mail(n)
	return p.queue.Do(context.Background(), [2][]byte{m.Digest[:16], body}, int64(len(body)))
}

// BenchmarkNextDepth compares an answer from a deep mailbox with one from a
// shallow one; both take turns in the same run.
func BenchmarkNextDepth(b *testing.B) {
	depths := []int{100, 100_000}
	options := fresh(b)
	s := open(b, options)
	defer func() { require.NoError(b, s.Close()) }()
	for i, depth := range depths {
		var next atomic.Int64
		many(b, depth, &next, func(n int) error {
			m := mail(n)
			m.Destination = spec.ServerName(fmt.Sprint("d", i))
			_, err := s.Put(context.Background(), m, store.Limits{})
			return err
		})
	}
	var took [2]time.Duration
	b.ResetTimer()
	for range b.N {
		for i := range depths {
			start := time.Now()
			_, err := s.Next(b.Context(), spec.ServerName(fmt.Sprint("d", i)), 0, 1, 1<<20)
			took[i] += time.Since(start)
			require.NoError(b, err)
		}
	}
	b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "deep/shallow")
}

// BenchmarkManyDead compares a mailbox through which 200,000 entries have gone,
// with nobody cleaning up behind them, with a new one; both take turns in the
// same run.
func BenchmarkManyDead(b *testing.B) {
	const gone, atOnce = 200_000, 1000
	stores := [2]*Store{}
	var next atomic.Int64
	put := func(s *Store) func(n int) error {
		return func(n int) error {
			_, err := s.Put(context.Background(), mail(n), store.Limits{})
			return err
		}
	}
	fetch := func(s *Store, n int) int64 {
		entries, err := s.Next(b.Context(), "b", 0, n, 1<<40)
		require.NoError(b, err)
		require.Len(b, entries, n)
		return entries[n-1].ID
	}
	acknowledge := func(s *Store, id int64) {
		_, err := s.Ack(b.Context(), "b", id)
		require.NoError(b, err)
	}
	for i := range stores {
		options := fresh(b)
		stores[i] = open(b, options)
		defer func() { require.NoError(b, stores[i].Close()) }()
		for _, table := range []string{"entry", "gone", "mailbox", "share", "total"} {
			execute(b, options, `ALTER TABLE {s}.`+table+` SET (autovacuum_enabled = off)`)
		}
	}
	for range gone / atOnce {
		many(b, atOnce, &next, put(stores[0]))
		acknowledge(stores[0], fetch(stores[0], atOnce))
	}
	var took [2][2]time.Duration
	b.ResetTimer()
	for range b.N {
		for i, s := range stores {
			require.NoError(b, put(s)(int(next.Add(1))))
			start := time.Now()
			id := fetch(s, 1)
			took[0][i] += time.Since(start)
			start = time.Now()
			acknowledge(s, id)
			took[1][i] += time.Since(start)
		}
	}
	b.ReportMetric(took[0][0].Seconds()/took[0][1].Seconds(), "worn/new-next")
	b.ReportMetric(took[1][0].Seconds()/took[1][1].Seconds(), "worn/new-ack")
}

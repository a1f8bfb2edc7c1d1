package sqlite

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkBackup compares how long PUTs of 8 KiB, 16 at a time, take beside a backup
// and before it.
func BenchmarkBackup(b *testing.B) {
	folder := b.TempDir()
	s := open(b, filepath.Join(folder, "relay.db"))
	var last atomic.Int64
	load := func(isOver func() bool) (took []time.Duration) {
		var all sync.WaitGroup
		var mu sync.Mutex
		for range 16 {
			all.Go(func() {
				for !isOver() {
					m := mail(int(last.Add(1)))
					m.Body = make([]byte, 8<<10)
					began := time.Now()
					put(b, s, m)
					mu.Lock()
					took = append(took, time.Since(began))
					mu.Unlock()
				}
			})
		}
		all.Wait()
		slices.Sort(took)
		return took
	}
	count := func(n int64) func() bool {
		end := last.Load() + n
		return func() bool { return last.Load() >= end }
	}
	report := func(took []time.Duration, when string) {
		for name, part := range map[string]int{"p50": 50, "p99": 99} {
			at := took[len(took)*part/100]
			b.ReportMetric(float64(at.Microseconds())/1000, fmt.Sprintf("ms-%s-%s", name, when))
		}
	}
	load(count(20_000))
	for b.Loop() {
		report(load(count(20_000)), "before")
		var isDone atomic.Bool
		var err error
		began := time.Now()
		go func() {
			err = s.Backup(b.Context(), filepath.Join(folder, fmt.Sprint(last.Load())))
			isDone.Store(true)
		}()
		report(load(isDone.Load), "beside")
		require.NoError(b, err)
		sizes, err := s.Sizes(b.Context()) // the log has grown as long as the copy was made
		require.NoError(b, err)
		b.ReportMetric(float64(sizes.Log)/float64(sizes.File), "log/database")
		b.ReportMetric(time.Since(began).Seconds(), "s/backup")
	}
}

package sqlite

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkOpenMillion opens a store of a million entries, and reports the
// memory that the process has taken by then, filling included.
func BenchmarkOpenMillion(b *testing.B) {
	path := filepath.Join(b.TempDir(), "relay.db")
	options := Options{Logger: slog.New(slog.DiscardHandler)}
	s, err := Open(path, options)
	require.NoError(b, err)
	const count = 1_000_000
	var all sync.WaitGroup
	for worker := range 64 {
		all.Go(func() {
			for i := worker; i < count; i += 64 {
				put(b, s, mail(i))
			}
		})
	}
	all.Wait()
	require.NoError(b, s.Close())
	b.ResetTimer()
	for range b.N {
		start := time.Now()
		s, err := Open(path, options)
		require.NoError(b, err)
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/open")
		_, err = s.Next(b.Context(), "b", 0, 100, 1<<20)
		require.NoError(b, err)
		require.NoError(b, s.Close())
	}
	b.ReportMetric(peakMemory(b), "MB-peak")
}

// peakMemory is the most memory that the process had resident, where the
// system tells.
func peakMemory(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Log(runtime.GOOS, err)
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kilobytes, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	require.NoError(b, err)
	return kilobytes / 1024
}

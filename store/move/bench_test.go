package move

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// BenchmarkMove moves 20,000 entries of 7.5 KB, all of one destination or of
// many.
func BenchmarkMove(b *testing.B) {
	for _, destinations := range []int{1, 100} {
		b.Run(fmt.Sprintf("destinations=%d", destinations), func(b *testing.B) { benchmarkMove(b, destinations) })
	}
}

func benchmarkMove(b *testing.B, destinations int) {
	const count = 20_000
	for range b.N {
		b.StopTimer()
		dir := b.TempDir()
		from := openSQLite(b, dir, "from", time.Hour)
		var all sync.WaitGroup
		for worker := range 64 {
			all.Go(func() {
				for n := worker; n < count; n += 64 {
					mail := mailOf(spec.ServerName(fmt.Sprint(n%destinations)), n)
					mail.Body = bytes.Repeat([]byte("b"), 7500)
					if _, err := from.Put(b.Context(), mail, store.Limits{}); err != nil {
						b.Error(err)
					}
				}
			})
		}
		all.Wait()
		b.StartTimer()
		s := done(b, from, openSQLite(b, dir, "to", time.Hour), time.Hour).(*Store)
		<-s.Done()
		b.StopTimer()
		require.NoError(b, s.Close())
	}
	b.ReportMetric(float64(count*b.N)/b.Elapsed().Seconds(), "entries/s")
}

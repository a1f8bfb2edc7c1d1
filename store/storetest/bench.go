package storetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// Benchmark measures a store. Each measurement reports rows/s beside the
// usual numbers: how many entries it puts, reads or acknowledges in a second.
func Benchmark(b *testing.B, newPlace func(tb testing.TB) Place) {
	run := func(name string, measure func(*bench)) {
		b.Run(name, func(b *testing.B) {
			s := newPlace(b).Open(b, longRetention)
			b.Cleanup(func() {
				if err := s.Close(); err != nil {
					b.Error(err)
				}
			})
			measure(&bench{B: b, Store: s})
		})
	}
	run("Put/alone", benchPut)
	run("Put/goroutines=64", benchPutParallel)
	run("Next/depth=100", func(b *bench) { b.next(100, 1) })
	run("Next/depth=100000", func(b *bench) { b.next(100_000, 1) })
	run("Next/entries=100", func(b *bench) { b.next(1000, 100) })
	run("Ack", benchAck)
	run("Cycle", benchCycle)
}

// A bench is everything that a benchmark works with.
type bench struct {
	*testing.B
	store.Store
	made atomic.Uint64
}

// large is the size of a usual transaction, small that of mail whose
// number matters.
const large, small = 8 << 10, 512

var benchBody = pattern(large)

// mail returns new mail. It must cost little, as it is made while the clock is
// running.
func (b *bench) mail(to spec.ServerName, size int) store.Mail {
	n := b.made.Add(1)
	return store.Mail{
		Destination:   to,
		Origin:        origin,
		TransactionID: gomatrixserverlib.TransactionID(strconv.FormatUint(n, 36)),
		Digest:        sha256.Sum256(strconv.AppendUint(nil, n, 36)),
		Body:          benchBody[:size],
	}
}

func (b *bench) check(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) put(to spec.ServerName, size int) error {
	_, err := b.Put(b.Context(), b.mail(to, size), store.Limits{})
	return err
}

func (b *bench) rows(n int) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
}

// fill puts many small mails for here, from many goroutines.
func (b *bench) fill(n int) {
	b.Helper()
	const putters = 64
	var errs [putters]error
	var left atomic.Int64
	left.Store(int64(n))
	var running sync.WaitGroup
	for i := range putters {
		running.Go(func() {
			for left.Add(-1) >= 0 && errs[i] == nil {
				errs[i] = b.put(here, small)
			}
		})
	}
	running.Wait()
	b.check(errors.Join(errs[:]...))
}

func benchPut(b *bench) {
	b.SetBytes(large)
	for b.Loop() {
		b.check(b.put(here, large))
	}
	b.rows(b.N)
}

// Each of 64 goroutines puts for a destination of its own.
func benchPutParallel(b *bench) {
	b.SetBytes(large)
	b.SetParallelism(max(1, 64/runtime.GOMAXPROCS(0)))
	var goroutines atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		to := spec.ServerName(fmt.Sprint("bench", goroutines.Add(1), ".example"))
		for pb.Next() {
			if err := b.put(to, large); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.rows(b.N)
}

// next reads n entries at a time, going on through a mailbox of this depth.
func (b *bench) next(depth, n int) {
	b.fill(depth)
	after, rows := int64(0), 0
	for b.Loop() {
		entries, err := b.Next(b.Context(), here, after, n, plenty)
		if errors.Is(err, store.ErrEmpty) {
			after = 0
			continue
		}
		b.check(err)
		rows += len(entries)
		after = entries[len(entries)-1].ID
	}
	b.rows(rows)
}

// Each Ack removes one entry of a mailbox of up to 1000.
func benchAck(b *bench) {
	var waiting []int64
	for b.Loop() {
		if len(waiting) == 0 {
			b.StopTimer()
			b.fill(1000)
			entries, err := readAll(b.Context(), b.Store, here)
			b.check(err)
			waiting = ids(entries)
			b.StartTimer()
		}
		removed, err := b.Ack(b.Context(), here, waiting[0])
		b.check(err)
		if removed != 1 {
			b.Fatalf("Ack removed %d entries", removed)
		}
		waiting = waiting[1:]
	}
	b.rows(b.N)
}

// A cycle is the whole life of an entry.
func benchCycle(b *bench) {
	b.SetBytes(large)
	for b.Loop() {
		b.check(b.put(here, large))
		entries, err := b.Next(b.Context(), here, 0, 1, plenty)
		b.check(err)
		_, err = b.Ack(b.Context(), here, entries[0].ID)
		b.check(err)
	}
	b.rows(b.N)
}

//go:build unix

package postgres

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// severalPutters is how many put at once, however many stores they share;
// severalBytes is the size of a body.
const severalPutters, severalBytes = 128, 7500

// severalTurn is how many are put in a turn.
const severalTurn = 2000

// BenchmarkSeveral compares several stores on one database, in this process and
// in processes of their own, with one; all take turns in the same run. The ratio
// is that of the rates.
func BenchmarkSeveral(b *testing.B) {
	for _, p := range []putting{{Destinations: 1}, {Destinations: 64}, {Destinations: 64, Apart: true}} {
		b.Run(fmt.Sprint("destinations=", p.Destinations, "/apart=", p.Apart), func(b *testing.B) {
			p.Options = fresh(b)
			kinds := []struct {
				name string
				puts func(n int)
			}{
				{"1-store", p.stores(b, 1)}, {"2-stores", p.stores(b, 2)}, {"4-stores", p.stores(b, 4)},
				{"1-process", p.processes(b, 1)}, {"2-processes", p.processes(b, 2)}, {"3-processes", p.processes(b, 3)},
			}
			took := make([]time.Duration, len(kinds))
			b.ResetTimer()
			for done := 0; done < b.N; done += severalTurn {
				for i, kind := range kinds {
					start := time.Now()
					kind.puts(severalTurn)
					took[i] += time.Since(start)
				}
			}
			turns := (b.N + severalTurn - 1) / severalTurn
			b.ReportMetric(float64(turns*severalTurn)/took[0].Seconds(), "puts/s/"+kinds[0].name)
			for i, kind := range kinds[1:] {
				b.ReportMetric(took[0].Seconds()/took[i+1].Seconds(), "ratio/"+kind.name)
			}
		})
	}
}

// A putting is shared by the processes of a benchmark.
type putting struct {
	Options      Options
	Destinations int
	Apart        bool // each store has its own
}

// stores returns a function that puts n mails through that many stores.
func (p putting) stores(b *testing.B, count int) func(n int) {
	var all []*Store
	for range count {
		s := open(b, p.Options)
		all = append(all, s)
		b.Cleanup(func() { require.NoError(b, s.Close()) })
	}
	return func(n int) { require.NoError(b, p.put(n, severalPutters, all...)) }
}

var severalNext atomic.Int64

// put puts n mails that nobody else puts.
func (p putting) put(n, putters int, stores ...*Store) error {
	body := bodyOf(store.Digest{}, severalBytes)
	limits := store.Limits{Entries: 1 << 40, Bytes: 1 << 40, OriginEntries: 1 << 40, OriginBytes: 1 << 40, StoreEntries: 1 << 40, StoreBytes: 1 << 40}
	errs := make(chan error, putters)
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for i := range putters {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				number := int(severalNext.Add(1))
				m := mail(number)
				m.Origin = spec.ServerName(fmt.Sprint("process ", os.Getpid()))
				m.Destination, m.Body = spec.ServerName(fmt.Sprint("d", number%p.Destinations)), body
				if p.Apart {
					m.Destination += spec.ServerName(fmt.Sprint(" of ", os.Getpid(), " ", i%len(stores)))
				}
				if _, err := stores[i%len(stores)].Put(context.Background(), m, limits); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(errs)
	return <-errs
}

// severalVariable is set for a process of the benchmark.
const severalVariable = "RELAY_SEVERAL"

// processes returns a function that puts n mails through stores in as many processes.
func (p putting) processes(b *testing.B, count int) func(n int) {
	p.Options = Options{ConnString: p.Options.ConnString, Schema: p.Options.Schema}
	said, err := json.Marshal(p)
	require.NoError(b, err)
	var all []child
	for range count {
		c := exec.Command(os.Args[0])
		c.Env, c.Stderr = append(os.Environ(), severalVariable+"="+string(said)), os.Stderr
		in, err := c.StdinPipe()
		require.NoError(b, err)
		out, err := c.StdoutPipe()
		require.NoError(b, err)
		require.NoError(b, c.Start())
		b.Cleanup(func() { require.NoError(b, in.Close()); require.NoError(b, c.Wait()) })
		all = append(all, child{in, bufio.NewReader(out)})
		all[len(all)-1].await(b)
	}
	return func(n int) {
		for _, c := range all {
			_, err := fmt.Fprintln(c.in, n/count, severalPutters/count)
			require.NoError(b, err)
		}
		for _, c := range all {
			c.await(b)
		}
	}
}

// A child puts as many mails as it is told to.
type child struct {
	in  io.Writer
	out *bufio.Reader
}

// await waits until it is ready for more.
func (c child) await(b *testing.B) {
	line, err := c.out.ReadString('\n')
	require.NoError(b, err)
	require.Equal(b, "ready", strings.TrimSpace(line))
}

// severalProcess is the main program of a process of the benchmark.
func severalProcess(said string) error {
	var p putting
	if err := json.Unmarshal([]byte(said), &p); err != nil {
		return err
	}
	s, err := Open(context.Background(), p.Options)
	if err != nil {
		return err
	}
	for {
		fmt.Println("ready")
		var n, putters int
		if _, err := fmt.Scanln(&n, &putters); err != nil { // the benchmark has ended
			return s.Close()
		}
		if err := p.put(n, putters, s); err != nil {
			return err
		}
	}
}

package jetstream

import (
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
	"github.com/matrixrelay/relay/store/storetest"
)

func syncAlways(o *server.Options) { o.SyncAlways = true }

// The servers of the benchmarks: as they are by default, and with every message
// on the disk before it is acknowledged.
var benchServers = []struct {
	name   string
	change func(*server.Options)
}{{"sync=default", nil}, {"sync=always", syncAlways}}

func BenchmarkStore(b *testing.B) {
	for _, of := range benchServers {
		b.Run(of.name, func(b *testing.B) {
			storetest.Benchmark(b, func(tb testing.TB) storetest.Place {
				s := startServer(tb, of.change)
				return storetest.Place{Open: func(tb testing.TB, retention time.Duration) store.Store {
					o := testOptions(s)
					o.Retention = retention
					return open(tb, o)
				}}
			})
		})
	}
}

// BenchmarkBare compares Puts with a client that publishes the same mail to a
// stream of its own, in the same batches, on the same servers at the same time
// of day: ratio is how many mails the store takes while the client stores one.
func BenchmarkBare(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		for _, of := range benchServers {
			for _, putters := range []int{1, 64} {
				for _, spread := range []string{"one mailbox", "a mailbox each"} {
					name := fmt.Sprintf("replicas=%d/%s/putters=%d/%s", replicas, of.name, putters, spread)
					b.Run(name, func(b *testing.B) { benchBare(b, replicas, of.change, putters, spread != "one mailbox") })
				}
			}
		}
	}
}

func benchBare(b *testing.B, replicas int, change func(*server.Options), putters int, spread bool) {
	var srv *server.Server
	if replicas == 1 {
		srv = startServer(b, change)
	} else {
		srv = startServers(b, replicas, change)[0]
	}
	s := open(b, testOptions(srv))
	b.Cleanup(func() { require.NoError(b, s.Close()) })
	_, err := s.engine.js.CreateStream(b.Context(), jetstream.StreamConfig{
		Name: "BARE", Subjects: []string{"BARE.>"}, AllowAtomicPublish: true, Replicas: replicas,
	})
	require.NoError(b, err)
	to := benchName
	if !spread {
		to = func(int) spec.ServerName { return benchName(0) }
	}
	var body [8 << 10]byte
	_, _ = crand.Read(body[:])
	var ours, bare time.Duration
	total := 0
	for b.Loop() { // by turns, so that both have the same machine
		n := 20 * putters
		ours += stopwatch(func() { benchPuts(b, s, body[:], n, putters, to) })
		bare += stopwatch(func() { benchPublish(b, s.engine, body[:], n, putters) })
		total += n
	}
	b.ReportMetric(float64(total)/ours.Seconds(), "puts/s")
	b.ReportMetric(float64(total)/bare.Seconds(), "bare/s")
	b.ReportMetric(bare.Seconds()/ours.Seconds(), "ratio")
}

// BenchmarkProcesses has 64 putters at one process, and the same number at
// several that share the stream: ratio is how many mails those store while the one
// stores one mail. All put into the same few mailboxes, into any of many, or each
// process into some of its own. Bare-ratio is that of clients that only publish
// the same batches, each to subjects of its own: the servers give no more than that.
func BenchmarkProcesses(b *testing.B) {
	for _, n := range []int{2, 4} {
		for name, to := range map[string]func(process, putter int) spec.ServerName{
			"few": func(_, putter int) spec.ServerName { return benchName(putter) },
			"any": func(int, int) spec.ServerName { return benchName(rand.IntN(10_000)) },
			"own": func(process, putter int) spec.ServerName { return benchName(putter + 64*process) },
		} {
			b.Run(fmt.Sprint(n, "/", name), func(b *testing.B) { benchProcesses(b, n, to) })
		}
	}
}

func benchName(i int) spec.ServerName { return spec.ServerName(fmt.Sprint(i, ".example")) }

func benchProcesses(b *testing.B, n int, to func(process, putter int) spec.ServerName) {
	srv := startServer(b, nil)
	stores, bare := make([]*Store, 1+n), make([]*bareClient, 1+n)
	for i := range stores {
		o := testOptions(srv)
		o.Stream = fmt.Sprint("S", min(i, 1))
		stores[i] = open(b, o)
		b.Cleanup(func() { require.NoError(b, stores[i].Close()) })
		o.Stream = fmt.Sprint("BARE", min(i, 1))
		bare[i] = newBareClient(b, o, 64*i)
	}
	const puts = 20 * 64
	body := make([]byte, 8<<10)
	var alone, together, bareAlone, bareTogether time.Duration
	for b.Loop() { // by turns, so that all have the same machine
		alone += stopwatch(func() {
			benchPuts(b, stores[0], body, puts, 64, func(putter int) spec.ServerName { return to(0, putter) })
		})
		together += stopwatch(func() {
			each(stores[1:], func(i int, s *Store) {
				benchPuts(b, s, body, puts/n, 64/n, func(putter int) spec.ServerName { return to(i, putter) })
			})
		})
		bareAlone += stopwatch(func() { bare[0].put(b, body, puts, 64) })
		bareTogether += stopwatch(func() {
			each(bare[1:], func(_ int, c *bareClient) { c.put(b, body, puts/n, 64/n) })
		})
	}
	b.ReportMetric(alone.Seconds()/together.Seconds(), "ratio")
	b.ReportMetric(bareAlone.Seconds()/bareTogether.Seconds(), "bare-ratio")
	b.ReportMetric(float64(puts*b.N)/alone.Seconds(), "alone/s")
	b.ReportMetric(float64(puts*b.N)/together.Seconds(), "together/s")
	b.ReportMetric(float64(puts*b.N)/bareTogether.Seconds(), "bare/s")
}

// each does something with all of a list at once.
func each[T any](list []T, do func(i int, of T)) {
	var all sync.WaitGroup
	for i, of := range list {
		all.Go(func() { do(i, of) })
	}
	all.Wait()
}

// A bareClient publishes batches as a store does for putters that each have a
// mailbox: with each mail the record of its mailbox and a share, which it made
// itself. It neither reads nor follows the stream.
type bareClient struct {
	engine   *engine
	subjects subjects
	first    int // the number of its first mailbox
	seqs     map[string]uint64
}

func newBareClient(b *testing.B, o Options, first int) *bareClient {
	e, err := newEngine(o.withDefaults())
	require.NoError(b, err)
	b.Cleanup(e.close)
	_, err = openStream(b.Context(), e, o.withDefaults())
	require.NoError(b, err)
	return &bareClient{e, subjects(o.Stream), first, make(map[string]uint64)}
}

func (c *bareClient) put(b *testing.B, body []byte, n, putters int) {
	for range n / putters {
		var out []outgoing
		for putter := range putters {
			mail := benchMail(body, benchName(c.first+putter))
			data, err := messagesOf(&mail, 1, 0, nonce{}, c.engine.maxMessage())
			if err != nil {
				b.Error(err)
				return
			}
			record := func(subject string, of form) outgoing {
				return outgoing{subject: subject, data: encode(of), checked: true, seq: c.seqs[subject]}
			}
			out = append(out, outgoing{subject: c.subjects.mail(seal.KeyOf(&mail)), data: data[0], checked: true},
				record(c.subjects.box(mail.Destination), &box{start: 1, base: 1, tail: make(page, pageSize/2)}),
				record(c.subjects.share(mail.Destination, originHash{}), &counts{entries: 1, bytes: mail.Size()}))
		}
		sequence, err := c.engine.publish(out, false)
		if err != nil {
			b.Error(err)
			return
		}
		for i := range out {
			c.seqs[out[i].subject] = sequence + uint64(i)
		}
	}
}

// BenchmarkNextDepth compares an answer from a mailbox of 100,000 entries with
// one from a mailbox of 100: ratio is the first one's time by the other's.
func BenchmarkNextDepth(b *testing.B) {
	s := open(b, testOptions(startServer(b, nil)))
	b.Cleanup(func() { require.NoError(b, s.Close()) })
	deep, flat := spec.ServerName("deep.example"), spec.ServerName("flat.example")
	var filling sync.WaitGroup
	for to, depth := range map[spec.ServerName]int{deep: 100_000, flat: 100} {
		for i := range 100 {
			filling.Go(func() {
				for range depth / 100 {
					if _, err := s.Put(b.Context(), benchMail(make([]byte, 1000+i), to), store.Limits{}); err != nil {
						b.Error(err)
					}
				}
			})
		}
	}
	filling.Wait()
	took := make(map[spec.ServerName]time.Duration)
	for b.Loop() {
		for _, to := range []spec.ServerName{deep, flat} {
			took[to] += stopwatch(func() {
				entries, err := s.Next(b.Context(), to, 0, 20, 1<<20)
				require.NoError(b, err)
				require.Len(b, entries, 20)
			})
		}
	}
	b.ReportMetric(took[deep].Seconds()/took[flat].Seconds(), "ratio")
	b.ReportMetric(float64(took[flat].Microseconds())/float64(b.N), "µs/of100")
	b.ReportMetric(float64(took[deep].Microseconds())/float64(b.N), "µs/of100000")
}

func stopwatch(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

var benchMade atomic.Int64

func benchMail(body []byte, to spec.ServerName) store.Mail {
	mail := store.Mail{Destination: to, Origin: "origin.example", Body: body}
	mail.TransactionID = gomatrixserverlib.TransactionID(strconv.FormatInt(benchMade.Add(1), 10))
	return mail
}

func benchPuts(b *testing.B, s *Store, body []byte, n, putters int, to func(putter int) spec.ServerName) {
	var all sync.WaitGroup
	for i := range putters {
		all.Go(func() {
			for range n / putters {
				if _, err := s.Put(b.Context(), benchMail(body, to(i)), store.Limits{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func benchPublish(b *testing.B, e *engine, body []byte, n, batch int) {
	for range n / batch {
		messages := make([]outgoing, batch)
		for i := range messages {
			mail := benchMail(body, "one.example")
			data, err := messagesOf(&mail, 1, 0, nonce{}, e.maxMessage())
			require.NoError(b, err)
			messages[i] = outgoing{subject: "BARE." + string(mail.TransactionID), data: data[0]}
		}
		_, err := e.publish(messages, false)
		require.NoError(b, err)
	}
}

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store/sqlite"
)

// The mail of the Outbox's benchmark.
const (
	liveDestinations = 100
	liveEach         = 307
	deadDestinations = 9900
	deadEach         = 7
)

// BenchmarkOutbox opens an Outbox that has 100 destinations which answer,
// alone and among 9,900 which count as offline: half of them hang, half refuse
// the connection. There are 100,000 transactions. The figures are for those that
// answer; "ratio" compares their speed among the dead with that alone, both
// taken in turns.
func BenchmarkOutbox(b *testing.B) {
	var alone, among outboxRun
	for b.Loop() {
		alone.add(runOutbox(b, 0))
		among.add(runOutbox(b, deadDestinations))
	}
	sent := float64(b.N * liveDestinations * liveEach)
	b.ReportMetric(sent/alone.seconds, "alone/s")
	b.ReportMetric(sent/among.seconds, "among/s")
	b.ReportMetric(alone.seconds/among.seconds, "ratio")
	b.ReportMetric(among.heap/(1<<20), "MB")
	b.ReportMetric(among.goroutines, "goroutines")
}

type outboxRun struct{ seconds, heap, goroutines float64 }

func (r *outboxRun) add(other outboxRun) {
	r.seconds += other.seconds
	r.heap, r.goroutines = max(r.heap, other.heap), max(r.goroutines, other.goroutines)
}

func runOutbox(b *testing.B, dead int) outboxRun {
	kept, err := sqlite.Open(filepath.Join(b.TempDir(), "outbox.db"), sqlite.Options{})
	require.NoError(b, err)
	defer func() { require.NoError(b, kept.Close()) }()
	caller, err := client.NewCaller(client.CallerConfig{Identity: a.SigningIdentity, Transport: sparseNet{}})
	require.NoError(b, err)
	peers := client.NewPeers()
	for i := range dead { // as it is kept from before
		require.NoError(b, peers.SetOffline(b.Context(), spec.ServerName(fmt.Sprint("dead", i)), true))
	}
	sender, err := client.NewSender(client.SenderConfig{Caller: caller, Peers: peers})
	require.NoError(b, err)
	defer func() { require.NoError(b, sender.Close()) }()

	done := make(chan struct{})
	var delivered atomic.Int64
	config := client.OutboxConfig{
		Sender: sender, Store: kept, Logger: slog.New(slog.DiscardHandler),
		Notify: func(e client.Event) {
			if e.Result == client.ResultDelivered && delivered.Add(1) == liveDestinations*liveEach {
				close(done)
			}
		},
	}
	fill(b, config, dead)
	runtime.GC()
	start := time.Now()
	outbox, err := client.OpenOutbox(b.Context(), config)
	require.NoError(b, err)
	run := watchUntil(done)
	run.seconds = time.Since(start).Seconds()
	require.NoError(b, outbox.Close())
	return run
}

// fill enqueues through an Outbox whose Sender's network is down: the mail for
// those that will answer comes last.
func fill(b *testing.B, config client.OutboxConfig, dead int) {
	closed, err := client.OpenOutbox(b.Context(), config)
	require.NoError(b, err)
	require.NoError(b, closed.Close()) // mail that it is given now is for the next one
	enqueue := func(name string, destinations, each int) {
		var all sync.WaitGroup
		for worker := range 64 {
			all.Go(func() {
				for i := worker; i < destinations*each; i += 64 {
					to := spec.ServerName(fmt.Sprint(name, i%destinations))
					made, err := client.NewTransaction(a.Transaction(to, fmt.Sprint(i), 2, 500))
					if err := errors.Join(err, closed.Enqueue(b.Context(), made)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	enqueue("dead", dead, deadEach)
	enqueue("live", liveDestinations, liveEach)
}

// watchUntil samples memory and goroutines.
func watchUntil(done <-chan struct{}) (peak outboxRun) {
	for {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak.heap = max(peak.heap, float64(m.HeapInuse+m.StackInuse))
		peak.goroutines = max(peak.goroutines, float64(runtime.NumGoroutine()))
		select {
		case <-done:
			return peak
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// A sparseNet has servers named live..., which answer after 5 ms, and others,
// of which every second hangs.
type sparseNet struct{}

func (sparseNet) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	wait := 5 * time.Millisecond
	live, hangs := strings.HasPrefix(r.URL.Host, "live"), r.URL.Host[len(r.URL.Host)-1]%2 == 0
	if !live && hangs {
		wait = time.Hour
	}
	select {
	case <-time.After(wait):
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
	if !live {
		return nil, errors.New("connection refused")
	}
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{}`)),
	}, nil
}

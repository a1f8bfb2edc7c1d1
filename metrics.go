package relay

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// metrics are nil-safe: a server without a registerer has none. docs/metrics.md lists
// them all.
type metrics struct {
	registerer   prometheus.Registerer
	collectors   []prometheus.Collector
	stopCommits  func() // or nil
	requests     *prometheus.CounterVec
	durations    *prometheus.HistogramVec
	refusals     *prometheus.CounterVec
	lookups      *prometheus.HistogramVec
	stored       prometheus.Counter
	copies       prometheus.Counter
	handedOut    prometheus.Counter
	acknowledged prometheus.Counter
}

// buckets are the bounds of histograms, in seconds: from a PUT on a fast disk to the
// longest time that senders wait.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

func newMetrics(config *Config, w *waits, healthy func(context.Context) error) (*metrics, error) {
	if config.Registerer == nil {
		return nil, nil
	}
	m := makeMetrics(config.Registerer)
	m.collectors = append(m.collectors, usageOf(config.Store), newClockJumps(),
		gaugeFunc("relay_waiting", "Requests that wait for mail.", func() float64 { return float64(w.count()) }),
		gaugeFunc("relay_healthy", "1 if the relay can store and read mail, 0 if not.", func() float64 {
			if healthy(context.Background()) != nil {
				return 0
			}
			return 1
		}))
	m.collectors = append(m.collectors, bounds(config)...)
	if measured, ok := config.Store.(store.Measured); ok {
		m.collectors = append(m.collectors, sizesOf(measured))
	}
	if committing, ok := config.Store.(store.Committing); ok {
		m.collectors = append(m.collectors, m.watchCommits(committing)...)
	}
	return m, m.register()
}

// makeMetrics makes those that the server counts. A series is there from the start
// where its labels are known, so that the first event shows as an increase.
func makeMetrics(registerer prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histograms := func(name, help, label string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{label})
	}
	m := &metrics{
		registerer:   registerer,
		requests:     counters("relay_requests_total", "Requests by endpoint and status.", "endpoint", "status"),
		durations:    histograms("relay_request_duration_seconds", "Time from a request's arrival until there is an answer, without the time that it was held for mail.", "endpoint"),
		refusals:     counters("relay_refusals_total", "Requests that weren't answered with 200, by reason.", "reason"),
		lookups:      histograms("relay_key_lookup_duration_seconds", "Time to check a signature whose key isn't its server's name, looking the key up included, by result.", "result"),
		stored:       counter("relay_stored_total", "Transactions taken in."),
		copies:       counter("relay_copies_total", "Transactions that were there already."),
		handedOut:    counter("relay_handed_out_total", "Transactions handed out, again and again until they are acknowledged."),
		acknowledged: counter("relay_acknowledged_total", "Transactions acknowledged by their destination."),
	}
	for _, reason := range reasons() {
		m.refusals.WithLabelValues(reason)
	}
	for _, result := range []string{lookupFound, lookupWrong, lookupFailed} {
		m.lookups.WithLabelValues(result)
	}
	m.collectors = []prometheus.Collector{
		m.requests, m.durations, m.refusals, m.lookups, m.stored, m.copies, m.handedOut, m.acknowledged,
	}
	return m
}

// register registers all of them or none.
func (m *metrics) register() error {
	for i, c := range m.collectors {
		if err := m.registerer.Register(c); err != nil {
			m.collectors = m.collectors[:i]
			m.unregister()
			return err
		}
	}
	return nil
}

func (m *metrics) unregister() {
	if m == nil {
		return
	}
	for _, c := range m.collectors {
		m.registerer.Unregister(c)
	}
	if m.stopCommits != nil {
		m.stopCommits()
	}
}

// answered counts a request for which there is an answer now.
func (m *metrics) answered(q *request, status int) {
	if m == nil {
		return
	}
	endpoint := nameOf(q.route.Endpoint)
	m.requests.WithLabelValues(endpoint, strconv.Itoa(status)).Inc()
	m.durations.WithLabelValues(endpoint).Observe((time.Since(q.began) - q.held).Seconds())
}

// refused counts a request that wasn't answered with 200.
func (m *metrics) refused(reason string) {
	if m != nil {
		m.refusals.WithLabelValues(reason).Inc()
	}
}

// nameOf is the name of an endpoint, or other: a stranger may write anything there.
func nameOf(endpoint wire.Endpoint) string {
	if len(endpoint.Methods()) == 0 {
		return "other"
	}
	return string(endpoint)
}

func (m *metrics) put(stored bool) {
	switch {
	case m == nil:
	case stored:
		m.stored.Inc()
	default:
		m.copies.Inc()
	}
}

func (m *metrics) handOut(n int) {
	if m != nil {
		m.handedOut.Add(float64(n))
	}
}

func (m *metrics) acknowledge(n int) {
	if m != nil {
		m.acknowledged.Add(float64(n))
	}
}

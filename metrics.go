package relay

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// metrics are nil-safe: a server without a registerer has none.
type metrics struct {
	registerer   prometheus.Registerer
	collectors   []prometheus.Collector
	requests     *prometheus.CounterVec
	stored       prometheus.Counter
	copies       prometheus.Counter
	handedOut    prometheus.Counter
	acknowledged prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer, s store.Store, w *waits) (*metrics, error) {
	if registerer == nil {
		return nil, nil
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		registerer: registerer,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "relay_requests_total", Help: "Requests by endpoint and status.",
		}, []string{"endpoint", "status"}),
		stored:       counter("relay_stored_total", "Transactions taken in."),
		copies:       counter("relay_copies_total", "Transactions that were there already."),
		handedOut:    counter("relay_handed_out_total", "Transactions handed out, again and again until they are acknowledged."),
		acknowledged: counter("relay_acknowledged_total", "Transactions acknowledged by their destination."),
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_waiting", Help: "Requests that wait for mail.",
	}, func() float64 { return float64(w.count()) })
	m.collectors = []prometheus.Collector{m.requests, m.stored, m.copies, m.handedOut, m.acknowledged, waiting, usageOf(s)}
	if measured, ok := s.(store.Measured); ok {
		m.collectors = append(m.collectors, sizesOf(measured))
	}
	for i, c := range m.collectors {
		if err := registerer.Register(c); err != nil {
			m.collectors = m.collectors[:i]
			m.unregister()
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m == nil {
		return
	}
	for _, c := range m.collectors {
		m.registerer.Unregister(c)
	}
}

func (m *metrics) answered(endpoint wire.Endpoint, status int) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(nameOf(endpoint), strconv.Itoa(status)).Inc()
}

// nameOf is the name of an endpoint, or other: a stranger may write anything there.
func nameOf(endpoint wire.Endpoint) string {
	if endpoint.Method() == "" {
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

// A storeCollector asks the store when it is scraped.
type storeCollector struct {
	descs []*prometheus.Desc
	ask   func(context.Context) (values []int64, err error) // as many as descs
}

func gauge(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }

func usageOf(s store.Store) prometheus.Collector {
	return &storeCollector{[]*prometheus.Desc{
		gauge("relay_entries", "Transactions waiting to be fetched."),
		gauge("relay_bytes", "Bytes of transactions waiting to be fetched."),
		gauge("relay_entries_set_aside", "Entries that could not be read and are passed over."),
	}, func(ctx context.Context) ([]int64, error) {
		u, err := s.Usage(ctx, "")
		return []int64{u.Entries, u.Bytes, u.SetAside}, err
	}}
}

func sizesOf(s store.Measured) prometheus.Collector {
	return &storeCollector{[]*prometheus.Desc{
		gauge("relay_store_file_bytes", "Size of the store's database file."),
		gauge("relay_store_log_bytes", "Size of the store's log, which isn't in the database yet."),
	}, func(ctx context.Context) ([]int64, error) {
		sizes, err := s.Sizes(ctx)
		return []int64{sizes.File, sizes.Log}, err
	}}
}

func (c *storeCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range c.descs {
		descs <- desc
	}
}

func (c *storeCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	values, err := c.ask(ctx)
	if errors.Is(err, store.ErrClosed) {
		return
	}
	for i, desc := range c.descs {
		if err != nil {
			out <- prometheus.NewInvalidMetric(desc, err)
			continue
		}
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(values[i]))
	}
}

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
	m.collectors = []prometheus.Collector{m.requests, m.stored, m.copies, m.handedOut, m.acknowledged, waiting, &usageCollector{s}}
	if measured, ok := s.(store.Measured); ok {
		m.collectors = append(m.collectors, &sizesCollector{measured})
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
	if endpoint != wire.SendRelay && endpoint != wire.RelayTxn {
		endpoint = "other"
	}
	m.requests.WithLabelValues(string(endpoint), strconv.Itoa(status)).Inc()
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

// A usageCollector asks the store when it is scraped.
type usageCollector struct{ store store.Store }

var (
	entriesDesc  = prometheus.NewDesc("relay_entries", "Transactions waiting to be fetched.", nil, nil)
	bytesDesc    = prometheus.NewDesc("relay_bytes", "Bytes of transactions waiting to be fetched.", nil, nil)
	setAsideDesc = prometheus.NewDesc("relay_entries_set_aside", "Entries that could not be read and are passed over.", nil, nil)
)

func (c *usageCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- entriesDesc
	descs <- bytesDesc
	descs <- setAsideDesc
}

func (c *usageCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	u, err := c.store.Usage(ctx, "")
	if errors.Is(err, store.ErrClosed) {
		return
	}
	for desc, value := range map[*prometheus.Desc]int64{entriesDesc: u.Entries, bytesDesc: u.Bytes, setAsideDesc: u.SetAside} {
		if err != nil {
			out <- prometheus.NewInvalidMetric(desc, err)
			continue
		}
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value))
	}
}

// A sizesCollector asks a store for the sizes of its files when it is scraped.
type sizesCollector struct{ store store.Measured }

var (
	fileDesc = prometheus.NewDesc("relay_store_file_bytes", "Size of the store's database file.", nil, nil)
	logDesc  = prometheus.NewDesc("relay_store_log_bytes", "Size of the store's log, which isn't in the database yet.", nil, nil)
)

func (c *sizesCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- fileDesc
	descs <- logDesc
}

func (c *sizesCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	sizes, err := c.store.Sizes(ctx)
	if errors.Is(err, store.ErrClosed) {
		return
	}
	for desc, value := range map[*prometheus.Desc]int64{fileDesc: sizes.File, logDesc: sizes.Log} {
		if err != nil {
			out <- prometheus.NewInvalidMetric(desc, err)
			continue
		}
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value))
	}
}

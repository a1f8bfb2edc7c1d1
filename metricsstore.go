package relay

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrixrelay/relay/store"
)

func gaugeFunc(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

// bounds are the limits that alerts compare with. One that isn't there has no series.
func bounds(config *Config) (all []prometheus.Collector) {
	for _, bound := range []struct {
		name, help string
		limit      int64
	}{
		{"relay_max_entries", "Limit of relay_entries.", config.MaxStoreEntries},
		{"relay_max_bytes", "Limit of relay_bytes.", config.MaxStoreBytes},
		{"relay_max_waiting", "Limit of relay_waiting.", int64(config.MaxWaiting)},
	} {
		if bound.limit > 0 {
			all = append(all, gaugeFunc(bound.name, bound.help, func() float64 { return float64(bound.limit) }))
		}
	}
	return all
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
		gauge("relay_remembered_copies", "Transactions that are gone and remembered, so that copies of them are recognised."),
		gauge("relay_store_file_bytes", "Size of the store's database file."),
		gauge("relay_store_log_bytes", "Size of the store's log, which isn't in the database yet."),
	}, func(ctx context.Context) ([]int64, error) {
		sizes, err := s.Sizes(ctx)
		return []int64{sizes.Copies, sizes.File, sizes.Log}, err
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

// watchCommits has the store tell of its commits until unregister.
func (m *metrics) watchCommits(s store.Committing) []prometheus.Collector {
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	took := histogram("relay_store_commit_duration_seconds", "Time that a commit of the store takes.", buckets)
	calls := histogram("relay_store_commit_calls", "Calls that share a commit of the store.", prometheus.ExponentialBuckets(1, 2, 9))
	bytes := histogram("relay_store_commit_bytes", "Bytes of mail and notes in a commit of the store.", prometheus.ExponentialBuckets(1<<10, 4, 8))
	m.stopCommits = s.OnCommit(func(c store.Commit) {
		took.Observe(c.Took.Seconds())
		calls.Observe(float64(c.Calls))
		bytes.Observe(float64(c.Bytes))
	})
	return []prometheus.Collector{took, calls, bytes}
}

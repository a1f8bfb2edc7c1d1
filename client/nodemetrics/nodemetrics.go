// Package nodemetrics shows the status of a client.Node to Prometheus. It is apart from
// package client, so that programs without Prometheus don't get its modules.
package nodemetrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
)

// patience is how long a scrape waits for the store.
const patience = 5 * time.Second

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("relay_node_"+name, help, labels, nil)
}

var (
	online       = desc("online", "1 if the Node asks others, 0 while it is offline.")
	destinations = desc("destinations", "Destinations for which something waits, or may wait where there are more than 1,000.")
	offline      = desc("destinations_offline", "Destinations, among the first 1,000, that count as offline.")
	waiting      = desc("waiting", "Transactions that wait for the first 1,000 destinations.")
	oldest       = desc("oldest_seconds", "How long the oldest of those has waited.")
	attempts     = desc("attempts_total", "Times that a transaction was sent to its destination itself, by result.", "result")
	requests     = desc("relay_requests_total", "Requests to a relay of this server, by result.", "relay", "result")
	fetched      = desc("relay_fetched_total", "Transactions of a relay of this server that are dealt with.", "relay")
	success      = desc("relay_success_timestamp_seconds", "When a relay of this server last gave a right answer.", "relay")
	failure      = desc("relay_failure_timestamp_seconds", "When a relay of this server last failed.", "relay")

	all = []*prometheus.Desc{online, destinations, offline, waiting, oldest, attempts, requests, fetched, success, failure}
)

// collector is a prometheus.Collector.
type collector struct{ node *client.Node }

// New returns the metrics of a Node, for a registry of the embedder's, which can have
// those of one Node only. docs/metrics.md lists them; the only label is the name of a
// relay of the Node's own server. Each scrape costs one Node.Status.
func New(node *client.Node) prometheus.Collector { return collector{node} }

// Describe implements prometheus.Collector.
func (collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range all {
		descs <- d
	}
}

// Collect implements prometheus.Collector. Once the store is closed there is nothing.
func (c collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	status, err := c.node.Status(ctx)
	if errors.Is(err, store.ErrClosed) {
		return
	}
	if err != nil {
		out <- prometheus.NewInvalidMetric(waiting, err)
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	count := func(d *prometheus.Desc, value int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	var mail, away int64
	var longest time.Duration
	for _, d := range status.Destinations {
		mail += d.Waiting
		away += one(d.Offline)
		longest = max(longest, d.Oldest)
	}
	gauge(online, float64(one(status.Online)))
	gauge(destinations, float64(len(status.Destinations)+status.OtherDestinations))
	gauge(offline, float64(away))
	gauge(waiting, float64(mail))
	gauge(oldest, longest.Seconds())
	count(attempts, status.Attempts.Delivered, "delivered")
	count(attempts, status.Attempts.Refused, "refused")
	count(attempts, status.Attempts.Failed, "failed")
	for _, relay := range status.Relays {
		if !relay.Own { // there are as many others as others name
			continue
		}
		name := string(relay.Relay)
		count(requests, relay.Successes, name, "success")
		count(requests, relay.Failures, name, "failure")
		count(fetched, relay.Fetched, name)
		for d, at := range map[*prometheus.Desc]time.Time{success: relay.LastSuccess, failure: relay.LastFailure} {
			if !at.IsZero() {
				gauge(d, float64(at.UnixMilli())/1000, name)
			}
		}
	}
}

func one(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

package main

import (
	"math"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/matrixrelay/relay/bounded"
)

// The bounds of one HTTP/2 connection: bytes that it has sent and nobody has read yet
// don't count for the relay's budgets.
const (
	maxStreams    = 64
	receiveBuffer = 256 << 10
	streamBuffer  = 128 << 10
)

// unusedBytes bounds those that an address sends each second and no request uses: about
// 15,000 of the smallest frames of HTTP/2.
const unusedBytes = 256 << 10

// connections are how many the relay takes.
type connections struct{ most count }

func (c *connections) flags(f *pflag.FlagSet) {
	c.most = bounded.DefaultConnections
	f.Var(&c.most, "max-connections", "take at most this `NUMBER` of connections, one in 32 of them from one\naddress, and no more than open files allow")
}

// fit returns the bounds of connections and of requests that wait, as the limit of open
// files allows them.
func (c *connections) fit(maxWaiting count) (most, waiting int) {
	return bounded.Fit(int(min(c.most, math.MaxInt32)), int(min(maxWaiting, math.MaxInt32)))
}

// boundHTTP2 is how much one connection may be that has many streams.
func boundHTTP2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: receiveBuffer, MaxReceiveBufferPerStream: streamBuffer,
	}
}

// openConnections is a metric of the connections that are open.
func openConnections(l *bounded.Listener) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_connections", Help: "Connections that are open.",
	}, func() float64 { return float64(l.Open()) })
}

// handshake is the reason of a connection whose TLS handshake failed.
const handshake = "handshake"

// refusedConnections is a metric of those that were closed or have failed.
func refusedConnections() *prometheus.CounterVec {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "relay_connections_refused_total", Help: "Connections that were closed since their address had too many, or whose TLS handshake failed.",
	}, []string{"reason"})
	for _, reason := range []string{handshake, string(bounded.TooMany), string(bounded.TooSoon)} {
		refused.WithLabelValues(reason)
	}
	return refused
}

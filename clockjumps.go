package relay

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrixrelay/relay/internal/stopwatch"
)

// leastJump is the least by which a clock jumps: a service that keeps it right in small steps
// stays below that between two scrapes.
const leastJump = time.Second

// clockJumps compares the machine's clock with the time that has passed, whenever it is
// scraped. It is a prometheus.Collector.
type clockJumps struct {
	prometheus.Counter
	wall func() time.Time

	mu     sync.Mutex
	ran    stopwatch.Stopwatch
	offset time.Duration // of the clock against ran, at the last look
	start  time.Time
}

func newClockJumps() *clockJumps {
	now := time.Now()
	return &clockJumps{
		Counter: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "relay_clock_jumps_total",
			Help: "Times that the machine's clock was found to have jumped, or the machine to have slept, between two scrapes.",
		}),
		wall: time.Now, ran: stopwatch.Start(now), start: now.Round(0),
	}
}

// Collect implements prometheus.Collector.
func (c *clockJumps) Collect(out chan<- prometheus.Metric) {
	c.look()
	c.Counter.Collect(out)
}

func (c *clockJumps) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	offset := c.wall().Round(0).Sub(c.start) - c.ran.Read()
	if (offset - c.offset).Abs() >= leastJump {
		c.Inc()
	}
	c.offset = offset
}

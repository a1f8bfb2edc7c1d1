package jetstream

import (
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/store/internal/upkeep"
)

// Options of a Store. Either Conn or URL is needed; the rest has defaults.
type Options struct {
	// Conn is a connection that the store uses and doesn't close. It should
	// reconnect for ever, and notice soon that a server is gone. Once it is closed the
	// store writes no more, and says so: see store.Failing.
	Conn *nats.Conn

	// URL is where to connect to if there is no Conn, in the form that
	// nats.Connect takes: several servers have commas between them.
	URL string

	// Connect are more options for connecting to URL, such as credentials.
	Connect []nats.Option

	// Stream is the name of the stream, and the first part of the subject of
	// all that is in it. Default "RELAY".
	Stream string

	// Domain is the JetStream domain of the stream, if it isn't that of the
	// server.
	Domain string

	// Replicas is how many servers keep the stream, if it has to be made.
	// Default 3 if the server belongs to a cluster, and 1 if not; negative: 1.
	Replicas int

	// MaxBytes is how large the stream may become, if it has to be made; each
	// replica sets so much aside. Mail is refused with store.ErrFull before
	// it's reached, so that there is room for removing some. Default, and
	// negative: as large as the servers let it; see "Room" in the package's
	// documentation for why that isn't best.
	MaxBytes int64

	// Retention is how long a transaction is remembered after it was
	// acknowledged or expired, so that a copy is recognised, in whole seconds by
	// the clocks of the servers: if one is wrong by some time, so is the retention.
	// Default 24 hours; negative: not at all, but for about a second.
	Retention time.Duration

	// MaxCopies is how many transactions are remembered for that, MaxCopiesOfOrigin how
	// many of one origin. Beyond that they are forgotten earlier: see store.Store. Each
	// process keeps both limits for those that it has removed since the store was opened,
	// with about 100 bytes of memory for each; others are forgotten by time alone. Defaults
	// 1,000,000 and a sixteenth of MaxCopies; negative: no limit.
	MaxCopies, MaxCopiesOfOrigin int64

	// SweepInterval is about how often expired mail is removed from the stream.
	// Expired mail is never handed out, at any interval. Default one minute;
	// negative: never, unless a Put needs the room.
	SweepInterval time.Duration

	// Timeout is how long a call goes on trying while no server answers, or the
	// servers have no leader. Default 30 seconds; negative: no limit, also for
	// Close.
	Timeout time.Duration

	// Logger is told of entries that can't be read and of failures of the
	// servers. Default: slog.Default().
	Logger *slog.Logger

	wall func() time.Time // the machine's clock, which may be wrong
}

func (o Options) withDefaults() Options {
	defaults.Set(&o.Stream, "RELAY")
	defaults.Bounds(&o.Timeout, 30*time.Second, defaults.Forever)
	defaults.Set(&o.Logger, slog.Default())
	o.Retention = upkeep.Retention(o.Retention)
	if o.wall == nil {
		o.wall = time.Now
	}
	return o
}

// reconnecting makes a connection last for ever, and a lost one be noticed soon.
func (o Options) reconnecting() []nats.Option {
	return []nats.Option{
		nats.Name("relay"), nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectBufSize(-1), nats.Timeout(attemptTimeout),
		nats.PingInterval(attemptTimeout), nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			o.Logger.Warn("jetstream: the connection to NATS", "error", err)
		}),
	}
}

package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// DefaultPollInterval is how often a Receiver asks a relay that had nothing.
const DefaultPollInterval = time.Minute

// A Received is a transaction that a relay held for this server.
type Received struct {
	// Relay is who had it, Origin who sent it, as the relay says.
	Relay  spec.ServerName
	Origin spec.ServerName

	wire.Answer
}

// ReceiverConfig of a Receiver. Caller, Peers and Handle are required.
type ReceiverConfig struct {
	// Caller makes the requests, in the name of the server whose mail it is.
	Caller *Caller

	// Peers knows the relays of that server.
	Peers *Peers

	// Handle processes a transaction. An error means that it wasn't processed
	// and is to come again. Those of one relay come one after the other in its
	// order, those of several relays at the same time.
	Handle func(ctx context.Context, received Received) error

	// Seen remembers what was handled. Default: NewSeen(0).
	Seen *Seen

	// PollInterval is how often a relay that had nothing is asked again, give
	// or take a quarter.
	PollInterval time.Duration

	// Backoff is how long a relay that fails, or whose transaction couldn't be
	// handled, is left alone.
	Backoff Backoff

	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

// A Receiver fetches the mail of one server from all its relays. It is safe for
// concurrent use.
type Receiver struct {
	config ReceiverConfig
	self   spec.ServerName

	mu    sync.Mutex
	turns map[spec.ServerName]chan struct{} // holds a token while a relay is drained
	wake  chan struct{}                     // closed by Online
}

// NewReceiver makes a Receiver.
func NewReceiver(config ReceiverConfig) (*Receiver, error) {
	if config.Caller == nil || config.Peers == nil || config.Handle == nil {
		return nil, errors.New("client: ReceiverConfig needs Caller, Peers and Handle")
	}
	setDefault(&config.PollInterval, DefaultPollInterval)
	config.Backoff = config.Backoff.withDefaults()
	if config.Seen == nil {
		config.Seen = NewSeen(0)
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Receiver{
		config: config,
		self:   config.Caller.config.Identity.ServerName,
		turns:  make(map[spec.ServerName]chan struct{}),
		wake:   make(chan struct{}),
	}, nil
}

// A Drained is what one relay gave.
type Drained struct {
	Relay spec.ServerName

	// Handled counts transactions that Handle took, Dropped those that had come
	// through another relay already, Unreadable those that no node can decode.
	// All three were acknowledged, apart from the last one if Err is set.
	Handled, Dropped, Unreadable int

	// Err is why it ended before the mailbox was empty, nil if it is empty.
	Err error
}

// Sync asks all relays at once, each until its mailbox is empty or it fails,
// and returns what each gave, in the order of their names. One relay's trouble
// delays no other. A relay that is being drained already is waited for first.
func (r *Receiver) Sync(ctx context.Context) []Drained {
	relays := r.config.Peers.Relays(r.self)
	results := make([]Drained, len(relays))
	var all sync.WaitGroup
	for i, relay := range relays {
		all.Go(func() { results[i] = r.drain(ctx, relay) })
	}
	all.Wait()
	return results
}

// Direct runs handle for a transaction that came from its origin itself, with
// PUT /send, unless a relay already had it or just this was handled before, and
// reports whether it did. While a relay's copy is being handled it waits. Body
// is the transaction's JSON. An error is handle's, the context's or that of
// writing it down; the origin must be told to come again.
func (r *Receiver) Direct(ctx context.Context, origin spec.ServerName, id gomatrixserverlib.TransactionID, body []byte, handle func(context.Context) error) (handled bool, err error) {
	content, err := wire.ReadContent(body)
	if err != nil {
		return false, fmt.Errorf("client: direct: %w", err)
	}
	return r.config.Seen.once(ctx, seenKeyOf(origin, content.Digest), source{id: id}, func() error { return handle(ctx) })
}

// drain empties one relay's mailbox.
func (r *Receiver) drain(ctx context.Context, relay spec.ServerName) (d Drained) {
	d.Relay = relay
	turn := r.turn(relay)
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		d.Err = ctx.Err()
		return d
	}
	_, d.Err = r.config.Caller.Drain(ctx, relay, func(ctx context.Context, answer wire.Answer) error {
		return r.take(ctx, &d, answer)
	})
	return d
}

func (r *Receiver) turn(relay spec.ServerName) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.turns[relay] == nil {
		r.turns[relay] = make(chan struct{}, 1)
	}
	return r.turns[relay]
}

// take deals with one transaction. It succeeds if that may be acknowledged.
func (r *Receiver) take(ctx context.Context, d *Drained, answer wire.Answer) error {
	content, err := wire.ReadContent(answer.Transaction)
	if err != nil {
		d.Unreadable++
		r.config.Logger.Warn("client: a transaction can't be read and is passed over", "relay", d.Relay, "entry", answer.EntryID, "error", err)
		return nil
	}
	key := seenKeyOf(content.Origin, content.Digest)
	handled, err := r.config.Seen.once(ctx, key, source{relay: d.Relay, entry: answer.EntryID}, func() error {
		return r.config.Handle(ctx, Received{Relay: d.Relay, Origin: content.Origin, Answer: answer})
	})
	switch {
	case err != nil:
		return err
	case handled:
		d.Handled++
	default:
		d.Dropped++
	}
	return nil
}

// Online says that this node has come online: Run asks all relays at once.
func (r *Receiver) Online() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.wake)
	r.wake = make(chan struct{})
}

func (r *Receiver) woken() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wake
}

// Run fetches until ctx ends, and returns its error: from each relay at once,
// then whenever Online is called, and by polling in between. Relays that are
// added or removed meanwhile are minded at the next poll.
func (r *Receiver) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	running := make(map[spec.ServerName]context.CancelFunc)
	for {
		woken := r.woken()
		relays := make(map[spec.ServerName]bool)
		for _, relay := range r.config.Peers.Relays(r.self) {
			relays[relay] = true
			if running[relay] == nil {
				own, cancel := context.WithCancel(ctx)
				running[relay] = cancel
				all.Go(func() { r.follow(own, relay) })
			}
		}
		for relay, cancel := range running {
			if !relays[relay] {
				cancel()
				delete(running, relay)
			}
		}
		select {
		case <-woken:
		case <-time.After(r.config.PollInterval):
		case <-ctx.Done():
			for _, cancel := range running {
				cancel()
			}
			return ctx.Err()
		}
	}
}

// follow fetches from one relay until ctx ends.
func (r *Receiver) follow(ctx context.Context, relay spec.ServerName) {
	failures := 0
	for ctx.Err() == nil {
		woken := r.woken()
		d := r.drain(ctx, relay)
		wait := r.config.PollInterval*3/4 + rand.N(r.config.PollInterval/2+1)
		if d.Err == nil {
			failures = 0
		} else {
			failures++
			wait = r.config.Backoff.after(failures, retryAfter(d.Err))
			r.config.Logger.Debug("client: a relay failed", "relay", relay, "error", d.Err, "wait", wait)
		}
		select {
		case <-woken:
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// retryAfter is when a server wants to be asked again, zero if it didn't say.
func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

package client

import (
	"context"
	"encoding/json"
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

// Defaults of ReceiverConfig.
const (
	DefaultPollInterval = time.Minute
	DefaultWait         = 50 * time.Second // proxies end what is silent for a minute
	DefaultKeyPatience  = time.Hour
)

// A Received is a transaction that a relay held for this server.
type Received struct {
	// Relay is who had it, EntryID what it calls it.
	Relay   spec.ServerName
	EntryID int64

	// Origin is who sent it, TransactionID what that server calls it; deployed
	// relays don't say, and it is empty. Unless Proof is Proven, they are what
	// the relay says.
	Origin        spec.ServerName
	TransactionID gomatrixserverlib.TransactionID
	Proof         ProofStatus

	// Body is its JSON.
	Body json.RawMessage
}

// Decode reads the transaction.
func (r *Received) Decode() (gomatrixserverlib.Transaction, error) {
	t := gomatrixserverlib.Transaction{}
	if err := json.Unmarshal(r.Body, &t); err != nil {
		return t, fmt.Errorf("client: entry %d of %s: %w", r.EntryID, r.Relay, err)
	}
	t.TransactionID = r.TransactionID
	return t, nil
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

	// Keys checks proofs of origin: the origins' keys, valid when they signed.
	// Nil checks none.
	Keys gomatrixserverlib.JSONVerifier

	// RequireProof has Handle given only what is proven to come from its origin.
	// Keys is needed then. Deployed relays have no proofs.
	RequireProof bool

	// KeyPatience is how long transactions that need proof are asked for again
	// while their origin's key can't be had. They hold up that relay's mailbox.
	KeyPatience time.Duration

	// MaxAge refuses what is proven to be older than that, by origin_server_ts:
	// a relay may bring back what it had long ago, after Seen has forgotten it.
	// Mail that waited for this node is that old, too. 0: no bound.
	MaxAge time.Duration

	// Rejected, if it isn't nil, is told of what isn't handed to Handle and why:
	// ErrProof of wire, ErrUnproven or ErrTooOld. It is acknowledged then.
	Rejected func(ctx context.Context, received Received, why error)

	// PollInterval is how often a relay that had nothing and doesn't hold
	// answers is asked again, give or take a quarter.
	PollInterval time.Duration

	// Wait is how long a relay is asked to hold an answer while it has nothing.
	// Negative: not at all. It takes a Caller with a Transport.
	Wait time.Duration

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

	mu      sync.Mutex
	turns   map[spec.ServerName]*relayTurn
	keyless map[keyless]patience
	wake    chan struct{} // closed by Online
}

// NewReceiver makes a Receiver.
func NewReceiver(config ReceiverConfig) (*Receiver, error) {
	if config.Caller == nil || config.Peers == nil || config.Handle == nil {
		return nil, errors.New("client: ReceiverConfig needs Caller, Peers and Handle")
	}
	if config.RequireProof && config.Keys == nil {
		return nil, errors.New("client: ReceiverConfig.RequireProof needs Keys")
	}
	if config.Wait == 0 {
		config.Wait = DefaultWait
	}
	if config.Caller.config.Transport == nil {
		config.Wait = 0
	}
	setDefault(&config.PollInterval, DefaultPollInterval)
	setDefault(&config.KeyPatience, DefaultKeyPatience)
	config.Backoff = config.Backoff.withDefaults()
	if config.Seen == nil {
		config.Seen = NewSeen(0)
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Receiver{
		config:  config,
		self:    config.Caller.config.Identity.ServerName,
		turns:   make(map[spec.ServerName]*relayTurn),
		keyless: make(map[keyless]patience),
		wake:    make(chan struct{}),
	}, nil
}

// A Drained is what one relay gave.
type Drained struct {
	Relay spec.ServerName

	// Handled counts transactions that Handle took, Dropped those that had come
	// before, Rejected those whose proof of origin isn't what it must be,
	// Unreadable those that no node can decode. All were acknowledged, unless
	// Err says that asking failed.
	Handled, Dropped, Rejected, Unreadable int

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
		all.Go(func() { results[i] = r.drain(ctx, relay, nil).Drained })
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
	var held *wire.Answer
	for ctx.Err() == nil {
		woken := r.woken()
		d := r.drain(ctx, relay, held)
		if d.Err == nil && d.stale {
			d.Err = fmt.Errorf("client: %s answers entry %d again", relay, held.EntryID)
		}
		if d.Err == nil && held != nil {
			failures = 0
		}
		held = nil
		if d.Err == nil && d.batches && r.config.Wait > 0 {
			asked := time.Now()
			if held, d.Err = r.await(ctx, relay, woken); held != nil {
				continue
			}
			if time.Since(asked) >= r.leastHeld() {
				failures = 0 // what ends an answer that is held may be a proxy
			}
		}
		if d.Err == nil {
			failures = 0
		}
		wait := r.config.PollInterval*3/4 + rand.N(r.config.PollInterval/2+1)
		if d.Err != nil {
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

// leastWait is for relays that hold answers for less than they are asked to; one
// that holds them for less than half of it is polled.
const leastWait = 10 * time.Second

func (r *Receiver) leastHeld() time.Duration { return min(r.config.Wait, leastWait) / 2 }

// await has a relay hold its answers until there is mail, which it returns. It
// returns nil when the node comes online, since its connections may be dead, and
// when the relay doesn't hold an answer.
func (r *Receiver) await(ctx context.Context, relay spec.ServerName, woken <-chan struct{}) (*wire.Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		select {
		case <-woken:
			cancel()
		case <-ctx.Done():
		}
	})
	for {
		start := time.Now()
		answer, err := r.config.Caller.Ask(ctx, relay, 0, wire.Query{Limit: firstLimit, Timeout: r.config.Wait})
		switch {
		case ctx.Err() != nil:
			return nil, nil
		case err != nil:
			return nil, err
		case answer.EntriesQueued:
			return &answer, nil
		case time.Since(start) < r.leastHeld():
			return nil, nil
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

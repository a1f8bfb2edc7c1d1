package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/wire"
)

// Defaults of ReceiverConfig.
const (
	DefaultPollInterval = time.Minute
	DefaultWait         = 50 * time.Second // proxies end a connection that is silent for a minute
	DefaultKeyPatience  = time.Hour
)

// A Received is a transaction that a relay held for this server.
type Received struct {
	// Relay is the server that had it, EntryID the relay's number for it.
	Relay   spec.ServerName
	EntryID int64

	// Origin is the server that sent it, TransactionID that server's ID for it; deployed
	// relays give neither, and both are empty. Unless Proof is Proven, they are the relay's
	// word only.
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

	// Handle processes a transaction. Nil means that this node is done with it,
	// whether its PDUs were accepted or not: it is acknowledged, and gone from the
	// relay. An error means that it wasn't processed and is to come again, and mail
	// behind it waits; if the context ended, as at a shutdown, that is the error
	// to return. Those of one relay come one after the other in its
	// order, but that those of other origins pass one that is held (see
	// KeyPatience); those of several relays come at the same time.
	Handle func(ctx context.Context, received Received) error

	// History remembers the transactions that were handled. Default: NewHistory(0).
	History *History

	// Keys checks proofs of origin: the origins' keys, valid when they signed.
	// Nil checks none. With Keys, a transaction that was handled unproven is handed to
	// Handle again when it comes proven, since a relay may have stripped the proof, or
	// made it up. To process PDUs again is harmless; a handler that takes EDUs unproven
	// may see one twice, and one that takes them only proven gets each once.
	Keys gomatrixserverlib.JSONVerifier

	// RequireProof has Handle given only mail that is proven to come from its origin.
	// Keys is needed then. Deployed relays have no proofs.
	RequireProof bool

	// KeyPatience is how long a transaction is held before it is decided that its
	// proof can't be checked, or that it is too old: it stays at the relay, and is
	// asked for again. So a clock that is wrong for less than that loses nothing.
	// It is held if no key of its origin can be had and RequireProof is set, or if
	// there is a key that wasn't valid by our clock; and, with MaxAge, if it is too
	// old by a clock that wasn't watched for that long since NewReceiver, or that
	// was set forward. Other origins' mail passes it.
	// Zero: DefaultKeyPatience. Negative: it is decided at once.
	KeyPatience time.Duration

	// MaxAge refuses mail that is proven to be older than that, by origin_server_ts: a
	// relay may bring back mail that it had long ago, after History has forgotten it.
	// Mail that waited for this node is that old, too. 0: no bound.
	MaxAge time.Duration

	// Rejected, if it isn't nil, is told of mail that isn't handed to Handle and why:
	// ErrProof of wire, ErrUnproven or ErrTooOld. It is acknowledged then. Its
	// Origin is the one that the relay claims.
	Rejected func(ctx context.Context, received Received, why error)

	// Receipts has this server sign receipts for the transactions that Handle took and that
	// are proven to come from their origin. Its relays get them and show them to the
	// origins, which needn't keep and send those transactions any more. Receipts tell when
	// this server was online, and are evidence for anyone that has them. A Node says in its
	// relay record that it gives them. They need Keys, and a clock that is set.
	Receipts bool

	// PollInterval is how often a relay that had nothing and doesn't hold
	// answers is asked again, give or take a quarter. Zero: DefaultPollInterval.
	// Negative: only by Online and Sync.
	PollInterval time.Duration

	// Wait is how long a relay is asked to hold an answer while it has nothing. If
	// answers that are held break at the same age again and again, it is asked for
	// less, until Online is called.
	// Zero: DefaultWait. Negative: not at all. It takes a Caller with a Transport, or an HTTPDoer.
	Wait time.Duration

	// Backoff is how long a relay that fails, whose transaction couldn't be
	// handled, or that has nothing but junk is left alone. If First is negative it
	// is a second, and grows no longer.
	Backoff Backoff

	// Logger gets the lines that an operator should know of. Default: slog.Default().
	Logger *slog.Logger
}

// A Receiver fetches the mail of one server from all its relays. It is safe for
// concurrent use.
type Receiver struct {
	config ReceiverConfig
	self   spec.ServerName

	calendar *calendar
	fetching *fetchTurn

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
	if config.RequireProof && !config.Caller.isWhole() {
		return nil, errors.New("client: ReceiverConfig.RequireProof needs a Caller with a Transport")
	}
	if config.Receipts && (config.Keys == nil || !config.Caller.isWhole()) {
		return nil, errors.New("client: ReceiverConfig.Receipts needs Keys, and a Caller with a Transport")
	}
	defaults.Bounds(&config.Wait, DefaultWait, -1)
	if !config.Caller.isWhole() {
		config.Wait = -1
	}
	defaults.Bounds(&config.PollInterval, DefaultPollInterval, defaults.Forever)
	defaults.Bounds(&config.KeyPatience, DefaultKeyPatience, -1)
	config.Backoff = config.Backoff.withDefaults().paced()
	if config.History == nil {
		config.History = NewHistory(0)
	}
	defaults.Set(&config.Logger, slog.Default())
	return &Receiver{
		config:   config,
		self:     config.Caller.config.Identity.ServerName,
		calendar: newCalendar(time.Now, config.KeyPatience),
		fetching: newFetchTurn(),
		turns:    make(map[spec.ServerName]*relayTurn),
		keyless:  make(map[keyless]patience),
		wake:     make(chan struct{}),
	}, nil
}

// A Drained is the outcome of draining one relay.
type Drained struct {
	Relay spec.ServerName

	// Handled counts transactions that Handle took, Copies those that had come
	// before, Rejected those whose proof of origin isn't as it must be,
	// Unreadable those that no node can decode. All were acknowledged, unless
	// Err says that asking failed.
	Handled, Copies, Rejected, Unreadable int

	// Err is why it ended before the mailbox was empty, nil if it is empty.
	Err error
}

// Sync asks all relays at once, each until its mailbox is empty, it fails, or it
// gives nothing but junk again and again: rejected, unreadable, or repeated. It
// returns the outcome of each, in the order of their names. One relay's trouble
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
// reports whether it did. It counts as proven: see ReceiverConfig.Keys. While a
// relay's copy is being handled it waits. Body is the transaction's JSON; one that
// can't be read is handled as one that was never seen.
//
// Without an error PUT /send is answered with 200, also where handle didn't run: the
// origin is done with it, and the answer has no results of PDUs then ({"pdus":{}}). An
// error is handle's, the context's or that of writing it down; the origin must be told
// to come again, with a 500.
func (r *Receiver) Direct(ctx context.Context, origin spec.ServerName, id gomatrixserverlib.TransactionID, body []byte, handle func(context.Context) error) (handled bool, err error) {
	content, err := wire.ReadContent(body)
	if err != nil {
		err = handle(ctx)
		return err == nil, err
	}
	came, err := r.config.History.once(ctx, seenKeyOf(origin, content.Digest), source{id: id, quiet: hasReceiptsOnly(body)}, func() error { return handle(ctx) })
	return came.toHandle() && err == nil, err
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

package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/store"
)

// Defaults of OutboxConfig.
const (
	DefaultKeepRelayed = 1000
	DefaultMaxAge      = 30 * 24 * time.Hour
	DefaultWorkers     = 256

	// Of Limits: of each destination, and of all together.
	DefaultOutboxEntries      = 100_000
	DefaultOutboxBytes        = 1 << 30
	DefaultOutboxStoreEntries = 10_000_000
	DefaultOutboxStoreBytes   = 16 << 30
)

// OutboxConfig of an Outbox. Sender is required, and one of Store and Source.
type OutboxConfig struct {
	// Sender brings transactions on their way.
	Sender *Sender

	// Store keeps transactions until then. It may be that of a relay, and that
	// of a Peers and a History: the mailboxes of an Outbox have names that no server
	// has, and limits don't count those of a relay. One store keeps one Outbox,
	// besides one with PassOn. If it is a store.Notes too, the Outbox remembers
	// there which transactions each relay has.
	Store store.Store

	// Source, if it isn't nil, has the transactions in place of Store, of which
	// only the notes are used, if there is one. Nothing can be enqueued, and
	// MaxAge and Limits don't count. See Stored.
	Source Source

	// PassOn makes the Outbox the sending half of a relay, whose Store it is: it
	// passes on the mail of those destinations for which PassOn is true, with
	// its proof of origin, to the destination itself or, if its origin has left
	// it here, to the destination's other relays. Delivered mail leaves the
	// mailbox. Mail without proof stays, and holds up the mail behind it, until
	// its destination fetches it. Mail for the relay itself stays, too; PassOn
	// must be false for other names of it. Mail that other relays take stays, since the
	// destination may fetch from this one only. Nothing can be enqueued.
	// KeepRelayed, MaxAge and Limits don't count: the relay has limits of its
	// own. See Stored and Seen.
	PassOn func(destination spec.ServerName) bool

	// Limits bound the transactions that Enqueue adds to the store. Those of the
	// whole store count the Outbox's own only. Zero fields of Entries, Bytes,
	// StoreEntries and StoreBytes mean DefaultOutboxEntries, DefaultOutboxBytes,
	// DefaultOutboxStoreEntries and DefaultOutboxStoreBytes; negative: no limit.
	Limits store.Limits

	// KeepRelayed is how many transactions for each destination are kept after
	// all its relays took them, to be handed over directly when the destination
	// is back; older ones are dropped. Nothing is dropped that a relay of the
	// destination could still get, nor for a destination that gives receipts. A
	// transaction that all of them have refused isn't dropped either: it stays, and those
	// behind it, up to MaxAge and Limits. Zero: DefaultKeepRelayed. Negative: none.
	KeepRelayed int

	// MaxAge is how long a transaction is tried. It is counted by the clock of
	// the store, which nobody can set, while the store is open. A change holds
	// for transactions enqueued from then on. Zero: DefaultMaxAge. Negative: no limit.
	MaxAge time.Duration

	// Workers is how many destinations and relays are served at the same time.
	// Those that failed when they were last tried get a quarter of them at most,
	// together with destinations that were never tried a half, and with relays
	// three quarters. Zero: DefaultWorkers. Negative: no limit.
	Workers int

	// Backoff is how long a destination that fails is left alone. For relays it
	// is SenderConfig.RelayBackoff. If First is negative it is a second, and grows
	// no longer; so it is for relays that are left alone for no time.
	Backoff Backoff

	// Notify, if it isn't nil, is called for each Event, those of one destination one
	// after the other. It holds up that destination only.
	Notify func(Event)

	// Logger gets the lines that an operator should know of. Default: slog.Default().
	Logger *slog.Logger
}

// A Result says how far a transaction in an Outbox has come.
type Result string

// Results of an Event. All but Relayed are the transaction's end.
const (
	ResultDelivered Result = "delivered" // the destination has it
	ResultHandled   Result = "handled"   // the destination has handled it, as a receipt of it says
	ResultRelayed   Result = "relayed"   // one more relay has it; it may still be handed over
	ResultDropped   Result = "dropped"   // relays have it; it is no longer kept
	ResultRefused   Result = "refused"   // the destination will never take it, or it can't be sent
	ResultExpired   Result = "expired"   // it became too old
)

// An Event is the news of one transaction.
type Event struct {
	Destination   spec.ServerName
	TransactionID gomatrixserverlib.TransactionID
	Result        Result

	// At is how many relays of the destination are known to have it, and Of how
	// many relays the destination has. They are set for relayed, which is told
	// each time that a relay took it, and dropped.
	At, Of int

	// Err is why it was refused; it wraps ErrUnsendable if that wasn't the
	// destination.
	Err error
}

// An Outbox is a durable queue of transactions for each destination. It sends
// the transactions of one destination in order, directly when that answers,
// else through its relays, and keeps trying. One destination never holds up
// another, nor one relay another. It is safe for concurrent use.
//
// While a destination is offline, its oldest transaction is tried directly with
// back-off, and all are left at each of its relays, in order, until that has
// them or refuses them for good; new ones at once. When it is back, all that are
// kept are handed over in order, with the same transaction ID and content.
//
// An Outbox of a Node whose Store is a store.Managed, too, asks relays for receipts, if the
// destination's record says that it gives them: the destination has signed them, so no
// relay can make one up. A transaction that it has handled ends. All others are kept and,
// as long as they are, given to the relays again, once a day and at most three times,
// since a relay may have lost them.
type Outbox struct {
	config   OutboxConfig
	source   Source
	queue    *queue // nil: nothing can be enqueued
	self     spec.ServerName
	peers    *Peers
	schedule *schedule
	attempts attempts

	notes      store.Notes // may be nil
	notePrefix string

	stop    context.Context
	cancel  context.CancelFunc
	unwatch func()
	running sync.WaitGroup
}

// OpenOutbox makes an Outbox, which goes on with the transactions in the store.
func OpenOutbox(ctx context.Context, config OutboxConfig) (*Outbox, error) {
	o, err := loadOutbox(ctx, config)
	if err == nil {
		o.running.Go(func() { o.run(o.stop) })
	}
	return o, err
}

// loadOutbox makes an Outbox that sends nothing until run is called.
func loadOutbox(ctx context.Context, config OutboxConfig) (*Outbox, error) {
	if config.Sender == nil || config.Store == nil && config.Source == nil {
		return nil, errors.New("client: OutboxConfig needs Sender, and Store or Source")
	}
	if config.PassOn != nil && (config.Source != nil || config.Store == nil) {
		return nil, errors.New("client: OutboxConfig.PassOn needs Store, and no Source")
	}
	if config.PassOn != nil && !config.Sender.config.Caller.isWhole() {
		return nil, errors.New("client: OutboxConfig.PassOn needs a Caller with a Transport")
	}
	o := &Outbox{config: config.withDefaults(), notePrefix: "outbox/"}
	o.self, o.peers = config.Sender.config.Caller.config.Identity.ServerName, config.Sender.config.Peers
	o.notes, _ = config.Store.(store.Notes)
	o.chooseSource()
	o.schedule = newSchedule(o.config.Workers, o.config.Backoff)
	o.stop, o.cancel = context.WithCancel(context.Background())
	if err := o.load(ctx); err != nil {
		o.cancel()
		return nil, fmt.Errorf("client: outbox: %w", err)
	}
	o.unwatch = o.peers.watch(func(server spec.ServerName) { o.schedule.useRelays(server, o.relaysInUse(server)) })
	return o, nil
}

// run sends until ctx ends, and waits for the attempts under way. It may be
// called again after that.
func (o *Outbox) run(ctx context.Context) { o.schedule.dispatch(ctx, o.serve) }

// anew forgets which attempts have failed, and tries all that waits at once: it
// was this server that had no network.
func (o *Outbox) anew() {
	o.config.Sender.relays.anew()
	o.schedule.anew()
}

func (c OutboxConfig) withDefaults() OutboxConfig {
	defaults.Bounds(&c.KeepRelayed, DefaultKeepRelayed, 0)
	defaults.Bounds(&c.MaxAge, DefaultMaxAge, defaults.Forever)
	defaults.Bounds(&c.Workers, DefaultWorkers, noLimit/int(classes))
	c.Backoff = c.Backoff.withDefaults().paced()
	defaults.Set(&c.Logger, slog.Default())
	l := &c.Limits // 0: no limit, for the store
	defaults.Bounds(&l.Entries, DefaultOutboxEntries, 0)
	defaults.Bounds(&l.Bytes, DefaultOutboxBytes, 0)
	defaults.Bounds(&l.StoreEntries, DefaultOutboxStoreEntries, 0)
	defaults.Bounds(&l.StoreBytes, DefaultOutboxStoreBytes, 0)
	defaults.Bounds(&l.OriginEntries, 0, 0)
	defaults.Bounds(&l.OriginBytes, 0, 0)
	return c
}

func (o *Outbox) chooseSource() {
	switch {
	case o.config.Source != nil:
		o.source = o.config.Source
	case o.config.PassOn != nil:
		o.source, o.notePrefix = relayed{o.config.Store}, "passon/"
	default:
		managed, _ := o.config.Store.(store.Managed)
		o.queue = &queue{managed: managed, store: o.config.Store, self: o.self, limits: o.config.Limits, maxAge: o.config.MaxAge}
		o.source = o.queue
	}
}

// staggered is how far apart destinations that counted as offline before are
// tried, so that opening an Outbox is no rush.
const staggered = 10 * time.Millisecond

// load finds the destinations that have transactions.
func (o *Outbox) load(ctx context.Context) error {
	const page = 1000
	now, wait := time.Now(), time.Duration(0)
	for after := spec.ServerName(""); ; {
		names, err := o.source.Destinations(ctx, after, page)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			break
		}
		for _, name := range names {
			offline := o.peers.Offline(name)
			if offline {
				wait = min(o.config.Backoff.Most, wait+staggered)
			}
			if o.serves(name) {
				o.schedule.open(name, offline, o.relaysInUse(name), now.Add(wait))
			}
		}
		after = names[len(names)-1]
	}
	if o.notes == nil {
		return nil
	}
	return o.loadProgress(ctx)
}

// Enqueue takes a transaction, and returns nil once it is safely in the store.
// The same transaction again is taken for a copy, once it was delivered for as long as the
// store remembers it: see Put of store.Store. It fails with a *wire.Error
// for a transaction that no server would take or that can't be signed, and with
// store.ErrFull for one that is over the limits.
func (o *Outbox) Enqueue(ctx context.Context, t Transaction) error {
	if o.queue == nil {
		return errors.New("client: enqueue: this Outbox has another source")
	}
	content, err := o.config.Sender.config.Caller.read(t)
	if err != nil {
		return fmt.Errorf("client: enqueue %s: %w", t.ID, err)
	}
	if err := o.queue.put(ctx, t, content); err != nil {
		return fmt.Errorf("client: enqueue %s: %w", t.ID, err)
	}
	o.Stored(t.Destination)
	return nil
}

// Stored says that there is a new transaction for a destination, which something
// other than Enqueue has put into the store or the Source: relay.Config.Stored,
// for one.
func (o *Outbox) Stored(destination spec.ServerName) {
	if o.serves(destination) {
		o.schedule.fresh(destination, o.peers.Offline(destination), o.relaysInUse(destination))
	}
}

// serves reports whether the transactions of a destination are ours to send.
func (o *Outbox) serves(destination spec.ServerName) bool {
	return o.config.PassOn == nil || destination != o.self && o.config.PassOn(destination)
}

// relaysInUse returns the relays of a destination, if it counts as offline.
func (o *Outbox) relaysInUse(destination spec.ServerName) []spec.ServerName {
	if !o.peers.Offline(destination) {
		return nil
	}
	o.config.Sender.book.want(destination)
	return o.config.Sender.relaysOf(destination)
}

// Seen says that a server is online, as its presence, a request of it or its
// asking for mail shows: the transactions that wait for it are tried at once.
func (o *Outbox) Seen(server spec.ServerName) { o.schedule.seen(server) }

// Close ends the attempts under way and waits for them. Queued transactions stay
// in the store, which Close doesn't close. It may be called more than once.
func (o *Outbox) Close() error {
	o.unwatch()
	o.cancel()
	o.running.Wait()
	return nil
}

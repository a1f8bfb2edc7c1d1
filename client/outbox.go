package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// Defaults of OutboxConfig.
const (
	DefaultKeepRelayed = 1000
	DefaultMaxAge      = 30 * 24 * time.Hour
	DefaultWorkers     = 256
)

// OutboxConfig of an Outbox. Sender and Store are required.
type OutboxConfig struct {
	// Sender brings transactions on their way.
	Sender *Sender

	// Store keeps them until then, in a mailbox for each destination. Unless
	// PassOn is set, it must not be that of a relay. If it is a store.Notes too,
	// the Outbox remembers there what relays have taken.
	Store store.Store

	// PassOn makes the Outbox the sending half of a relay, whose Store it is: it
	// passes on the mail of those destinations for which PassOn is true, with
	// its proof of origin, to the destination itself or, if its origin has left
	// it here, to the destination's other relays. What was delivered leaves the
	// mailbox. Mail without proof stays, and holds up what is behind it, until
	// its destination fetches it. Mail for the relay itself stays, too; PassOn
	// must be false for other names of it. What other relays take stays, since the
	// destination may fetch from this one only. Nothing can be enqueued.
	// KeepRelayed, MaxAge and Limits don't count: the relay has limits of its
	// own. See Stored and Seen.
	PassOn func(destination spec.ServerName) bool

	// Limits bound what Enqueue adds to the store.
	Limits store.Limits

	// KeepRelayed is how many transactions for each destination are kept after
	// a relay took them, to be handed over directly when the destination is
	// back; older ones are dropped, except that nothing is dropped while there
	// is one that all relays have refused. Negative: none.
	KeepRelayed int

	// MaxAge is how long a transaction is tried.
	MaxAge time.Duration

	// Workers is how many destinations are served at the same time. Those that
	// failed when they were last tried get a quarter of them at most, together
	// with those that were never tried a half.
	Workers int

	// Backoff is how long a destination that fails is left alone.
	Backoff Backoff

	// Notify, if it isn't nil, is told what becomes of each transaction, those
	// of one destination in order. It holds up that destination only.
	Notify func(Event)

	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

// A Result is what becomes of a transaction in an Outbox.
type Result string

// Results of an Event. All but Relayed are the transaction's end.
const (
	ResultDelivered Result = "delivered" // the destination has it
	ResultRelayed   Result = "relayed"   // a relay has it; it may still be handed over
	ResultDropped   Result = "dropped"   // a relay has it; it is no longer kept
	ResultRefused   Result = "refused"   // the destination will never take it
	ResultExpired   Result = "expired"   // it became too old
)

// An Event says what became of a transaction.
type Event struct {
	Destination   spec.ServerName
	TransactionID gomatrixserverlib.TransactionID
	Result        Result

	// Err is why it was refused.
	Err error
}

// An Outbox is a durable queue of transactions for each destination. It sends
// the transactions of one destination in order, directly when that answers,
// else through its relays, and keeps trying. One destination never holds up
// another. It is safe for concurrent use.
//
// While a destination is offline, its oldest transaction is tried directly with
// back-off, and those that no relay has yet are left at its relays, new ones at
// once. When it is back, all that are kept are handed over in order, with the
// same transaction ID and content.
type Outbox struct {
	config OutboxConfig
	self   spec.ServerName
	notes  store.Notes // may be nil
	lines  *lines

	stop    context.Context
	cancel  context.CancelFunc
	unwatch func()
	running sync.WaitGroup
}

// outboxPrefix is what the keys of an Outbox's notes begin with.
const outboxPrefix = "outbox/"

// OpenOutbox makes an Outbox, which goes on with what is in the store.
func OpenOutbox(ctx context.Context, config OutboxConfig) (*Outbox, error) {
	if config.Sender == nil || config.Store == nil {
		return nil, errors.New("client: OutboxConfig needs Sender and Store")
	}
	if config.KeepRelayed == 0 {
		config.KeepRelayed = DefaultKeepRelayed
	}
	config.KeepRelayed = max(0, config.KeepRelayed)
	setDefault(&config.MaxAge, DefaultMaxAge)
	setDefault(&config.Workers, DefaultWorkers)
	config.Backoff = config.Backoff.withDefaults()
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	peers := config.Sender.config.Peers
	o := &Outbox{config: config, self: config.Sender.config.Caller.config.Identity.ServerName, lines: newLines(config.Workers, peers.Offline)}
	o.notes, _ = config.Store.(store.Notes)
	o.stop, o.cancel = context.WithCancel(context.Background())
	if err := o.load(ctx); err != nil {
		o.cancel()
		return nil, fmt.Errorf("client: outbox: %w", err)
	}
	o.lines.stagger(config.Backoff.Most, func(server spec.ServerName) bool { return len(peers.Relays(server)) > 0 })
	o.unwatch = peers.watch(func(server spec.ServerName) { o.lines.wakeUp(server, news{relays: true}) })
	o.running.Go(func() { o.lines.dispatch(o.stop, o.serve) })
	return o, nil
}

// load finds the destinations that have transactions.
func (o *Outbox) load(ctx context.Context) error {
	const page = 1000
	for after := spec.ServerName(""); ; {
		names, err := o.config.Store.Destinations(ctx, after, page)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			break
		}
		for _, name := range names {
			o.Stored(name)
		}
		after = names[len(names)-1]
	}
	if o.notes == nil {
		return nil
	}
	return eachNote(ctx, o.notes, outboxPrefix, func(note store.Note) error {
		var ids [2]int64
		if n, err := binary.Decode(note.Value, binary.BigEndian, &ids); err == nil && n == len(note.Value) {
			o.lines.setRelayed(spec.ServerName(strings.TrimPrefix(note.Key, outboxPrefix)), ids[0], ids[1])
		}
		return nil
	})
}

// Enqueue takes a transaction, and returns nil once it is safely in the store.
// The same transaction again is taken for a copy. It fails with a *wire.Error
// for what no server would take, and with store.ErrFull for what is over the
// limits.
func (o *Outbox) Enqueue(ctx context.Context, t Transaction) error {
	if o.config.PassOn != nil {
		return errors.New("client: enqueue: this Outbox passes on what a relay stores")
	}
	content, err := wire.ReadContent(t.Body)
	if err != nil {
		return fmt.Errorf("client: enqueue %s: %w", t.ID, err)
	}
	if _, err := wire.UserAt(t.Destination); err != nil {
		return fmt.Errorf("client: enqueue %s: %w", t.ID, err)
	}
	// Nobody would take these, and they would hold up what is behind them.
	if t.ID == "" || len(t.ID) > wire.MaxTransactionIDBytes {
		return fmt.Errorf("client: enqueue: a transaction ID of %d bytes", len(t.ID))
	}
	if content.HasOrigin && content.Origin != o.self {
		return fmt.Errorf("client: enqueue %s: its origin is %q", t.ID, content.Origin)
	}
	_, err = o.config.Store.Put(ctx, store.Mail{
		Destination: t.Destination, Origin: o.self, TransactionID: t.ID, Digest: content.Digest, Body: t.Body,
		Proof: binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixMilli())), // when it came
	}, o.config.Limits)
	if err != nil {
		return fmt.Errorf("client: enqueue %s: %w", t.ID, err)
	}
	o.lines.wakeUp(t.Destination, news{fresh: true})
	return nil
}

// Stored says that there is new mail for a destination, which something other
// than Enqueue has put into the store: relay.Config.Stored, for one.
func (o *Outbox) Stored(destination spec.ServerName) {
	if o.config.PassOn == nil || destination != o.self && o.config.PassOn(destination) {
		o.lines.wakeUp(destination, news{fresh: true})
	}
}

// Seen says that a server is online, as its presence, a request of it or its
// asking for mail shows: what waits for it is tried at once.
func (o *Outbox) Seen(server spec.ServerName) { o.lines.wakeUp(server, news{seen: true}) }

// Close ends the attempts under way and waits for them. What is queued stays
// in the store, which Close doesn't close. It may be called more than once.
func (o *Outbox) Close() error {
	o.unwatch()
	o.cancel()
	o.running.Wait()
	return nil
}

// A turn is how serving a destination ended.
type turn struct {
	empty   bool // there is nothing left
	answers bool // the destination answered
	offline bool // it counts as offline
	relayed bool // relays have all there is
	until   time.Time
}

// serve does what can be done for a destination now.
func (o *Outbox) serve(ctx context.Context, l *line) turn {
	t, err := o.serveInTurn(ctx, l)
	if err != nil && ctx.Err() == nil {
		o.config.Logger.Warn("client: outbox", "destination", l.destination, "error", err)
		l.troubles++
		t = turn{until: time.Now().Add(o.config.Backoff.after(l.troubles, 0))}
		l.seenAt = t.until // or it would be sent again and again what can't be taken off
		return t
	}
	l.troubles = 0
	return t
}

func (o *Outbox) serveInTurn(ctx context.Context, l *line) (turn, error) {
	t := turn{offline: o.config.Sender.config.Peers.Offline(l.destination)}
	if l.direct {
		if err := o.serveDirectly(ctx, l, &t); err != nil || t.empty || t.answers {
			return t, err
		}
	}
	t.until = l.directAt
	if t.offline {
		return t, o.serveThroughRelays(ctx, l, &t)
	}
	return t, nil
}

// turnLength is how many transactions a destination may send before it goes to
// the end of the queue.
const turnLength = 32

// serveDirectly hands transactions over, the oldest first, until one fails.
func (o *Outbox) serveDirectly(ctx context.Context, l *line, t *turn) error {
	for sent := range turnLength {
		entry, err := o.next(ctx, l, 0)
		if errors.Is(err, store.ErrEmpty) {
			t.empty, t.answers = true, sent > 0
			return errors.Join(o.forget(ctx, l), o.config.Sender.config.Peers.forget(ctx, l.destination))
		}
		if err != nil {
			return err
		}
		transaction, ok := o.transactionOf(entry)
		if !ok {
			l.directAt = time.Now().Add(o.config.Backoff.Most)
			return nil
		}
		attempt, offline := o.config.Sender.SendDirect(ctx, transaction)
		if err := ctx.Err(); err != nil && attempt.Verdict != Delivered {
			return err
		}
		switch {
		case attempt.Verdict == Delivered:
			err = o.end(ctx, l, entry, ResultDelivered, nil)
		case attempt.Verdict == Refused && o.config.PassOn == nil: // else it may still be fetched
			err = o.end(ctx, l, entry, ResultRefused, attempt.Err)
		default:
			l.failed(o.config.Backoff, attempt.RetryAfter)
			t.offline = offline
			return nil
		}
		if err != nil {
			return err
		}
		l.succeeded()
	}
	t.answers = true
	return nil
}

// next returns the first entry after that ID, and ends those that are too old.
func (o *Outbox) next(ctx context.Context, l *line, after int64) (store.Entry, error) {
	for {
		entries, err := o.config.Store.Next(ctx, l.destination, after, 1, math.MaxInt64)
		if err != nil {
			return store.Entry{}, err
		}
		if after > 0 || o.config.PassOn != nil || time.Since(cameAt(entries[0])) < o.config.MaxAge {
			return entries[0], nil
		}
		if err := o.end(ctx, l, entries[0], ResultExpired, nil); err != nil {
			return store.Entry{}, err
		}
	}
}

// end removes the oldest entry, and tells.
func (o *Outbox) end(ctx context.Context, l *line, entry store.Entry, result Result, why error) error {
	// What was sent must be taken off the queue, even if we are being closed.
	if _, err := o.config.Store.Ack(context.WithoutCancel(ctx), l.destination, entry.ID); err != nil {
		return err
	}
	o.notify(entry, result, why)
	return nil
}

func (o *Outbox) notify(entry store.Entry, result Result, why error) {
	if o.config.Notify != nil {
		o.config.Notify(Event{entry.Destination, entry.TransactionID, result, why})
	}
}

// transactionOf returns what is to be sent for an entry; ok is false if it can't
// be passed on.
func (o *Outbox) transactionOf(e store.Entry) (t Transaction, ok bool) {
	t = Transaction{ID: e.TransactionID, Destination: e.Destination, Body: e.Body}
	if o.config.PassOn == nil {
		return t, true
	}
	proof, err := wire.ReadProof(e.Proof)
	t.Proof = &proof
	return t, err == nil && proof.Signature != ""
}

// cameAt is when an entry was enqueued. Where a relay keeps proofs, an Outbox
// keeps that.
func cameAt(e store.Entry) time.Time {
	if len(e.Proof) != 8 {
		return time.Now()
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(e.Proof)))
}

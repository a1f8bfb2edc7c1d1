package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// recordEDU is the type of an EDU whose content is a relay record.
	recordEDU = "org.matrixrelay.relays"

	// tendEvery is how often it is looked whether something about records is due,
	// and tendSoon while our own has yet to be brought somewhere.
	tendEvery = time.Hour
	tendSoon  = time.Minute
)

func (n *Node) openRecords(ctx context.Context, config NodeConfig, notes store.Notes) (err error) {
	n.logger = cmp.Or(config.Logger, slog.Default())
	keys := config.Keys
	if keys == nil {
		keys = wire.HexKeys{}
	}
	n.book, err = openBook(ctx, &book{notes: notes, keys: keys, self: n.self, peers: n.peers, logger: n.logger})
	if err != nil {
		return err
	}
	n.caller.book = n.book
	n.scout = scout{n.book, n.caller}
	n.announcer, err = openAnnouncer(ctx, &announcer{
		caller: n.caller, notes: notes, peers: n.peers, book: n.book, self: config.Identity,
		receipts: config.Receiver.Receipts,
	})
	n.caller.addresses = n.addresses
	return err
}

// addresses are those at which a relay may be reached that has the mail of a server: those
// that this server itself has announced, or the one by which the relay has agreed.
func (n *Node) addresses(about, relay spec.ServerName) []string {
	if about == n.self {
		if o := n.announcer.current(); o != nil {
			return o.addresses(relay)
		}
		return nil
	}
	if address, ok := n.book.page(about).Through[relay]; ok {
		return []string{address}
	}
	return nil
}

// Announce says that mail for this server goes to these relays, 1 to
// wire.MaxRecordRelays, and to no others any more. Each new one is asked for mail first,
// which claims the mailbox at a relay that is open to anybody; one that wants an invite
// must have got it before: see Caller.Claim. Then the Node signs a relay record, brings
// it to the new relays and to those before, and sends it to the servers that it writes
// to, as an EDU. With OutboxConfig.Source, the embedder sends that: see Link.
//
// It returns nil once that is on the disk; servers that couldn't be reached by then
// get the record while Run runs. An error means that nothing was changed. At most one record
// an hour is signed: until the next one is, the Node already fetches from the relays in it.
// Run signs a new record before the last expires, fetches from a relay that was left until
// the last record that names it has expired, and logs a record of this server that the Node
// doesn't know. Close ends it.
func (n *Node) Announce(ctx context.Context, relays ...spec.ServerName) error {
	named := make([]wire.RecordRelay, len(relays))
	for i, relay := range relays {
		named[i].Name = relay
	}
	return n.AnnounceAt(ctx, named...)
}

// AnnounceAt is Announce with addresses of the relays, up to wire.MaxRelayAt of each, of the
// form https://host:port. Servers that can't reach a relay by its name use them: see
// CallerConfig.Addresses. So does this server.
func (n *Node) AnnounceAt(ctx context.Context, relays ...wire.RecordRelay) error {
	if !n.caller.isWhole() {
		return fmt.Errorf("client: announce: %w", errNeedsTransport)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.stop, cancel)()
	if err := n.announcer.announce(ctx, relays); err != nil {
		return fmt.Errorf("client: announce: %w", err)
	}
	n.book.awake()
	return nil
}

// Link returns a text that says where the mail for this server goes, for people to give
// to each other: see wire.ReadLink and AddRecord. It is empty before Announce was called.
func (n *Node) Link() string {
	o := n.announcer.current()
	if o == nil {
		return ""
	}
	return o.record.Link()
}

// AddRecord takes another server's record, usually from a link, once a person has seen
// which server it is. Nobody is asked for anything before there is mail for that server.
// An error wraps wire.ErrSigned if the server didn't sign it, and wire.ErrNoKey if that
// can't be told now. A record that isn't newer than the one that is known is no error.
func (n *Node) AddRecord(ctx context.Context, record wire.RelayRecord) error {
	if err := n.book.take(ctx, record, true); err != nil && !errors.Is(err, errOlder) {
		return err
	}
	return nil
}

// OnlyByHand says whether a server has no other relays than those of SetRelays, whatever
// its record names. An error means that the change isn't kept.
func (n *Node) OnlyByHand(ctx context.Context, server spec.ServerName, only bool) error {
	return n.peers.OnlyByHand(ctx, server, only)
}

// writesTo notes that this server writes to another, which is to know its relays.
func (n *Node) writesTo(ctx context.Context, server spec.ServerName) {
	o, p := n.announcer.current(), n.book.page(server)
	if p.Written && (o == nil || p.Told >= o.record.Seq) || o == nil && p.record == nil || server == n.self {
		return
	}
	err := n.book.change(ctx, server, func(p *page) error {
		if p.Kept && p.Written {
			return errOlder // nothing is new
		}
		p.Kept, p.Written = true, true
		return nil
	})
	if err != nil && !errors.Is(err, errOlder) {
		n.logger.Warn("client: records", "server", server, "error", err)
	}
	n.book.awake()
}

// tendRecords does all that is due about records until ctx ends.
func (n *Node) tendRecords(ctx context.Context) {
	if !n.caller.isWhole() {
		return
	}
	for ctx.Err() == nil {
		wanted, hints, shown := n.book.takeTodo()
		n.scout.look(ctx, wanted, hints)
		n.announcer.tend(ctx, shown)
		n.tell(ctx)
		select {
		case <-n.book.todo.wake:
		case <-time.After(min(n.announcer.rest(), n.book.rest())):
		case <-ctx.Done():
		}
	}
}

// tell sends this server's record to the servers that it writes to and that don't have it.
// An embedder with a queue of its own does that itself.
func (n *Node) tell(ctx context.Context) {
	o := n.announcer.current()
	if o == nil || n.outbox.queue == nil {
		return
	}
	for _, server := range n.book.untold(o.record.Seq) {
		err := n.outbox.Enqueue(ctx, n.recordTransaction(server, o.record))
		if err == nil {
			err = n.book.change(ctx, server, func(p *page) error {
				p.Told = o.record.Seq
				return nil
			})
		}
		switch {
		case errors.Is(err, store.ErrFull): // for that server, perhaps, and the others have room
			n.logger.Debug("client: records", "server", server, "error", err)
		case err != nil:
			if ctx.Err() == nil {
				n.logger.Warn("client: records", "server", server, "error", err)
			}
			return // the store doesn't take it now
		}
	}
}

// recordTransaction makes a transaction that has nothing but a record in it.
func (n *Node) recordTransaction(to spec.ServerName, record *wire.RelayRecord) Transaction {
	body := fmt.Appendf(nil, `{"edus":[{"content":%s,"edu_type":%q}],"origin":%q,"origin_server_ts":%d,"pdus":[]}`,
		record.JSON(), recordEDU, n.self, max(time.Now().UnixMilli(), 0))
	id := fmt.Sprintf("relays-%d-%x", record.Seq, record.Hash())
	return Transaction{ID: gomatrixserverlib.TransactionID(id[:min(len(id), 64)]), Destination: to, Body: body}
}

// readRecord reads the record in a transaction that came, if there is one, whether or not
// the homeserver takes the rest. It has a signature of its own, so origin may be unproven;
// it is empty if only the transaction says it.
func (n *Node) readRecord(ctx context.Context, origin spec.ServerName, body []byte) {
	if !bytes.Contains(body, []byte(recordEDU)) {
		return
	}
	var t struct {
		Origin spec.ServerName `json:"origin"`
		EDUs   []struct {
			Type    string          `json:"edu_type"`
			Content json.RawMessage `json:"content"`
		} `json:"edus"`
	}
	if json.Unmarshal(body, &t) != nil {
		return
	}
	for _, edu := range t.EDUs {
		if edu.Type != recordEDU {
			continue
		}
		if record, err := wire.ReadRelayRecord(edu.Content); err == nil {
			n.sent(ctx, cmp.Or(origin, t.Origin), record)
		}
		return // one a transaction
	}
}

// sent is for a record that a server has sent: its own, or ours, which it knows better. One
// that can't be taken is passed over: it isn't right, or it comes again.
func (n *Node) sent(ctx context.Context, from spec.ServerName, record wire.RelayRecord) {
	if record.Server == n.self {
		n.book.show(&record)
		return
	}
	if record.Server != from || !errors.Is(n.book.take(ctx, record, false), errOlder) || n.outbox.queue == nil {
		return
	}
	p := n.book.page(from)
	if !p.Written || !record.Precedes(p.record) {
		return
	}
	// It was set back to an earlier state. The same again is a copy.
	if err := n.outbox.Enqueue(ctx, n.recordTransaction(from, p.record)); err != nil && ctx.Err() == nil {
		n.logger.Warn("client: records", "server", from, "error", err)
	}
}

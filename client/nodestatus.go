package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// maxStatus bounds the destinations of a NodeStatus.
const maxStatus = 1000

// A NodeStatus is for an operator, or the user of a phone.
type NodeStatus struct {
	// Online is false while nobody is asked: see Node.Offline.
	Online bool

	// Attempts are the direct ones since OpenNode.
	Attempts Attempts

	// Relays are those of this server, and those of others that were asked since
	// OpenNode, in the order of their names.
	Relays []RelayStatus

	// Destinations are those for which something waits, in the order of their
	// names, up to 1,000. OtherDestinations is how many there are besides.
	Destinations      []DestinationStatus
	OtherDestinations int
}

// Attempts are how often transactions were sent to their destination itself. A transaction
// for which it takes several attempts is in Failed several times.
type Attempts struct {
	Delivered int64
	Refused   int64 // the destination will never take it
	Failed    int64
}

// A RelayStatus says how it goes with one relay, since OpenNode.
type RelayStatus struct {
	Relay spec.ServerName

	// Own is whether it is a relay of this server, from which mail is fetched.
	Own bool

	// LastSuccess is when it last gave a right answer, LastFailure when it last
	// didn't, or gave a transaction that couldn't be handled, and LastError why. They are zero
	// if it never did.
	LastSuccess time.Time
	LastFailure time.Time
	LastError   error

	// Successes and Failures are how often it did each. A relay of another server may
	// begin anew where there are more than 1,000.
	Successes int64
	Failures  int64

	// Info is its own account of its abilities, nil if it wasn't asked or didn't answer:
	// see Node.RelayInfo.
	Info *wire.RelayInfo

	// Fetched is how many transactions it gave that are dealt with, copies and
	// rejected ones included.
	Fetched int64
}

// A DestinationStatus says how much waits for a destination, and where.
type DestinationStatus struct {
	Destination spec.ServerName

	// Waiting is how many transactions the destination hasn't got directly, and hasn't
	// handled as far as its receipts say.
	Waiting int64

	// Oldest is how long the oldest of them has waited, by the store's clock. Zero: not
	// known, or nothing waits.
	Oldest time.Duration

	// Receipts is whether its record says that it gives receipts. Without them nobody can
	// tell whether it has handled mail that relays were given.
	Receipts bool

	// Offline is whether it counts as offline, so that relays are used.
	Offline bool

	// NextAttempt is when it is tried directly again. Zero: now, or as soon as
	// Run gets to it.
	NextAttempt time.Time

	// Relays are those of the destination, in the order of their names.
	Relays []HoldingStatus
}

// A HoldingStatus says how many of a destination's waiting transactions a relay has.
type HoldingStatus struct {
	Relay spec.ServerName

	// Given is how much it was given, and Lacks how many of those it has refused,
	// or couldn't take so far, up to 116.
	Given Given
	Lacks int
}

// A Given is how many of a destination's waiting transactions a relay was given.
type Given string

// Values of Given.
const (
	GivenNone Given = "none"
	GivenSome Given = "some"
	GivenAll  Given = "all"
)

// Status returns the status of now. It asks the store, a few times for each
// destination, and no server.
func (n *Node) Status(ctx context.Context) (NodeStatus, error) {
	status := NodeStatus{Relays: n.relayStatus(), Attempts: n.outbox.attempts.read()}
	status.Online = n.isOnline()
	names := n.outbox.schedule.names()
	for i, name := range names {
		if len(status.Destinations) == maxStatus {
			status.OtherDestinations = len(names) - i
			break
		}
		one, err := n.outbox.status(ctx, name)
		if err != nil {
			return NodeStatus{}, fmt.Errorf("client: node: status of %s: %w", name, err)
		}
		if one.Waiting > 0 {
			status.Destinations = append(status.Destinations, one)
		}
	}
	return status, nil
}

// RelayInfo asks a relay for its abilities, its limits and its mode. From then on, for a
// day, the Node asks for no larger batches than it gives, leaves nothing there that is
// too large for it, and shows it in its Status. Before the Node leaves a transaction of
// 1 MiB or more at a relay, it asks by itself.
func (n *Node) RelayInfo(ctx context.Context, relay spec.ServerName) (wire.RelayInfo, error) {
	return n.caller.Info(ctx, relay)
}

// Claim claims this server's mailbox at a relay with an invite: see Caller.Claim.
func (n *Node) Claim(ctx context.Context, relay spec.ServerName, invite string) error {
	return n.caller.Claim(ctx, relay, invite)
}

func (n *Node) isOnline() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.online
}

func (n *Node) relayStatus() []RelayStatus {
	own, contacts := n.peers.Relays(n.self), n.caller.contacts.all()
	names := slices.AppendSeq(slices.Clone(own), maps.Keys(contacts))
	slices.Sort(names)
	var all []RelayStatus
	for _, relay := range slices.Compact(names) {
		c := contacts[relay]
		var info *wire.RelayInfo
		if said, _ := n.caller.infos.get(relay); said.Extensions != nil {
			info = &said
		}
		all = append(all, RelayStatus{
			Relay: relay, Info: info, Own: slices.Contains(own, relay), Fetched: n.receiver.fetched(relay),
			LastSuccess: c.success, LastFailure: c.failure, LastError: c.err, Successes: c.successes, Failures: c.failures,
		})
	}
	return all
}

// fetched is how many transactions of a relay were dealt with.
func (r *Receiver) fetched(relay spec.ServerName) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if turn := r.turns[relay]; turn != nil {
		return turn.fetched.Load()
	}
	return 0
}

// status is that of a destination. Nothing may wait for it by now.
func (o *Outbox) status(ctx context.Context, name spec.ServerName) (s DestinationStatus, err error) {
	s = DestinationStatus{Destination: name, Offline: o.peers.Offline(name), NextAttempt: o.schedule.nextAttempt(name)}
	s.Receipts = o.givesReceipts(name)
	oldest, err := o.source.Next(ctx, name, 0)
	if errors.Is(err, store.ErrEmpty) {
		return s, nil
	}
	s.Oldest = oldest.Age
	if err == nil {
		s.Waiting, err = o.source.Queued(ctx, name)
	}
	for _, relay := range o.config.Sender.relaysOf(name) {
		if err != nil {
			return s, err
		}
		var holding HoldingStatus
		holding, err = o.holding(ctx, name, relay, oldest.Position)
		s.Relays = append(s.Relays, holding)
	}
	return s, err
}

// holding says how many of a destination's waiting transactions a relay has, from
// the oldest on.
func (o *Outbox) holding(ctx context.Context, name, relay spec.ServerName, oldest int64) (HoldingStatus, error) {
	status := HoldingStatus{Relay: relay, Given: GivenNone}
	var done int64
	done, status.Lacks = o.schedule.given(name, relay, oldest)
	if done < oldest {
		return status, nil
	}
	_, err := o.source.Next(ctx, name, done)
	switch {
	case err == nil:
		status.Given = GivenSome
	case errors.Is(err, store.ErrEmpty):
		status.Given, err = GivenAll, nil
	}
	return status, err
}

// given returns the position up to which a relay was given the waiting transactions,
// and how many of those, from the oldest on, it hasn't got.
func (s *schedule) given(name, relay spec.ServerName, oldest int64) (done int64, lacks int) {
	d := s.find(name)
	if d == nil {
		return 0, 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.relays[relay]
	if p == nil {
		return 0, 0
	}
	for _, position := range slices.Concat(p.Owed, p.Refused) {
		if position >= oldest {
			lacks++
		}
	}
	return p.Done, lacks
}

// names returns the destinations that there may be something for, in order.
func (s *schedule) names() []spec.ServerName {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.all))
}

// nextAttempt is when a destination is tried directly again, zero if it isn't
// waited for.
func (s *schedule) nextAttempt(name spec.ServerName) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.all[name]; d != nil && d.roads[""].state == waiting {
		return d.roads[""].until
	}
	return time.Time{}
}

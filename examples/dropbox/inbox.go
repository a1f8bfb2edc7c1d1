package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// An inbox handles the transactions that a node gets, and keeps them.
type inbox struct {
	mu   sync.Mutex
	room *room // as the node knows it
	got  []delivery
}

// A delivery is a transaction and the server that brought it.
type delivery struct {
	from spec.ServerName
	body json.RawMessage
}

// take handles a transaction. It accepts the same as a homeserver would, but has no
// way to get events that are missing.
func (in *inbox) take(ctx context.Context, from spec.ServerName, body json.RawMessage) error {
	var transaction gomatrixserverlib.Transaction
	if err := json.Unmarshal(body, &transaction); err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for i, pdu := range transaction.PDUs {
		if err := in.takeEvent(ctx, pdu); err != nil {
			return fmt.Errorf("event %d of a transaction from %s: %w", i+1, from, err)
		}
	}
	in.got = append(in.got, delivery{from, slices.Clone(body)})
	return nil
}

// errEarly says that an event isn't the next one. The others may be at another relay.
var errEarly = errors.New("events are missing, twice or in the wrong order")

// takeEvent checks the hash and the signature of an event, that it is the one
// that comes next in its room, and that its sender may send it.
func (in *inbox) takeEvent(ctx context.Context, pdu []byte) error {
	event, err := in.room.version.NewEventFromUntrustedJSON(pdu)
	if err != nil {
		return err
	}
	if event.Redacted() {
		return fmt.Errorf("%s: the content was changed: its hash is wrong", event.EventID())
	}
	if err := gomatrixserverlib.VerifyEventSignatures(ctx, event, wire.HexKeys{}, userIDForSender); err != nil {
		return fmt.Errorf("%s: %w", event.EventID(), err)
	}
	if before := event.PrevEventIDs(); len(before) != 1 || before[0] != in.room.last.EventID() {
		return fmt.Errorf("%s comes after %v, but the last event here is %s: %w", event.EventID(), before, in.room.last.EventID(), errEarly)
	}
	return in.room.append(event)
}

// say makes messages of the node's user.
func (in *inbox) say(by *node, texts ...string) ([]json.RawMessage, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.room.say(by, texts...)
}

// all returns everything that has come so far.
func (in *inbox) all() []delivery {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.got)
}

// compare returns an error for mail that is missing, too much or different.
func (in *inbox) compare(sent []gomatrixserverlib.Transaction) error {
	all := in.all()
	if len(all) != len(sent) {
		return fmt.Errorf("%d transactions were sent, %d arrived", len(sent), len(all))
	}
	for i, t := range sent {
		want, err := onTheWire(t)
		if err != nil {
			return err
		}
		if got := all[i].body; !bytes.Equal(want, got) {
			return fmt.Errorf("transaction %s was changed on the way:\nsent    %s\narrived %s", t.TransactionID, want, got)
		}
	}
	return nil
}

// onTheWire is the form that a transaction is signed and sent in.
func onTheWire(t gomatrixserverlib.Transaction) ([]byte, error) {
	body, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	return gomatrixserverlib.CanonicalJSON(body)
}

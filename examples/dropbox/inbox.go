package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"

	"github.com/matrixrelay/relay/wire"
)

// An inbox is what a node does with the transactions that it gets, and what it
// has got.
type inbox struct {
	room *room // as the node knew it when it went away
	got  []wire.Answer
}

// take is a client.Handler. It accepts what a homeserver would.
func (in *inbox) take(ctx context.Context, answer wire.Answer) error {
	transaction, err := answer.Decode()
	if err != nil {
		return err
	}
	for i, pdu := range transaction.PDUs {
		if err := in.takeEvent(ctx, pdu); err != nil {
			return fmt.Errorf("event %d of entry %d: %w", i+1, answer.EntryID, err)
		}
	}
	in.got = append(in.got, answer)
	return nil
}

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
		return fmt.Errorf("%s comes after %v, but the last event here is %s: events are missing, twice or in the wrong order",
			event.EventID(), before, in.room.last.EventID())
	}
	return in.room.append(event)
}

// compare says what is missing, too much or different.
func (in *inbox) compare(sent []gomatrixserverlib.Transaction) error {
	if len(in.got) != len(sent) {
		return fmt.Errorf("%d transactions were sent, %d arrived", len(sent), len(in.got))
	}
	for i, t := range sent {
		want, err := onTheWire(t)
		if err != nil {
			return err
		}
		if got := in.got[i].Transaction; !bytes.Equal(want, got) {
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

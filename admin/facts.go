package admin

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
)

// factPrefixes begin the keys of notes about one server, whose name follows: of package
// policy (the first three) and of relay.Server. receiptPrefix is likewise, and there are as
// many as Config.MaxReceipts allows.
var factPrefixes = []string{"relay/claim/", "relay/member/", "relay/owned/", "relay/record/", "relay/receipts/"}

const receiptPrefix = "relay/receipt/"

// Facts implements Operator.
func (d *Desk) Facts(ctx context.Context, server spec.ServerName) ([]Fact, error) {
	if err := checkMailbox(server); err != nil {
		return nil, err
	}
	facts := []Fact{}
	notes, ok := d.config.Store.(store.Notes)
	if !ok {
		return facts, nil
	}
	now, err := notebook.Clock(d.config.Store)(ctx)
	if err != nil {
		return nil, fmt.Errorf("admin: the store's clock: %w", err)
	}
	clock := int64(now / time.Second)
	for _, prefix := range factPrefixes {
		key := prefix + string(server)
		value, err := notebook.Read(ctx, notes, key)
		if err != nil {
			return nil, fmt.Errorf("admin: the notes about a server: %w", err)
		}
		if len(value) > 0 {
			facts = append(facts, Fact{key, value, clock})
		}
	}
	err = notebook.Each(ctx, notes, receiptPrefix+string(server)+"/", func(note store.Note) error {
		facts = append(facts, Fact{note.Key, note.Value, clock})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("admin: receipts in the notes: %w", err)
	}
	return facts, nil
}

// forgetStep is how many notes are removed in one step of the store.
const forgetStep = 500

// Forget implements Operator. After a failure a part may be left.
func (d *Desk) Forget(ctx context.Context, server spec.ServerName) error {
	facts, err := d.Facts(ctx, server)
	if err != nil || len(facts) == 0 {
		return err
	}
	notes := d.config.Store.(store.Notes) // the facts are from there
	for some := range slices.Chunk(facts, forgetStep) {
		var changes []store.Note
		for _, fact := range some {
			changes = append(changes, store.Note{Key: fact.Key})
		}
		if err := notes.SetNotes(ctx, changes); err != nil {
			return fmt.Errorf("admin: forgetting a server: %w", err)
		}
	}
	d.config.Logger.Info("admin: forgot what was remembered of a server", "server", server, "notes", len(facts))
	return nil
}

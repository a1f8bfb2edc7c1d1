package client

import (
	"context"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// A Handler processes a transaction that a relay held. An error means that it
// wasn't processed: the relay keeps it, and those behind it.
type Handler func(ctx context.Context, transaction wire.Answer) error

// Drain fetches from one relay until its mailbox is empty, handing over one
// transaction after the other, and returns how many were handled. A transaction
// that was handled is acknowledged when the next is asked for, so after an error the
// last one handled may come again. A relay that never runs out is followed
// until ctx ends.
func (c *Caller) Drain(ctx context.Context, relay spec.ServerName, handle Handler) (handled int, err error) {
	var last int64
	for {
		answer, err := c.Next(ctx, relay, last)
		if err != nil || !answer.EntriesQueued {
			return handled, err
		}
		if answer.EntryID <= last {
			return handled, fmt.Errorf("client: %s answers entry %d after %d was acknowledged", relay, answer.EntryID, last)
		}
		if err := handle(ctx, answer); err != nil {
			return handled, fmt.Errorf("client: handling entry %d of %s: %w", answer.EntryID, relay, err)
		}
		handled++
		last = answer.EntryID
	}
}

package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/internal/stripes"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// clearedPrefix begins the keys of notes about entries that were removed because of
	// receipts; the destination follows.
	clearedPrefix = "relay/cleared/"

	// clearedLasts is for how long their IDs can be acknowledged, and maxCleared how many
	// of a mailbox can: the greatest.
	clearedLasts = 24 * time.Hour
	maxCleared   = 1000

	// maxLooked bounds the entries of a mailbox that are compared with receipts: the oldest.
	maxLooked  = 10_000
	lookedPage = 500
)

// clearing removes mail that receipts are for.
type clearing struct {
	mail    store.Managed
	notes   store.Notes
	clock   func(context.Context) (time.Duration, error)
	writing *stripes.Locks // of a destination's notes
	cleared round          // of the clearedNotes
}

func newClearing(mail store.Managed, kept *keptReceipts) *clearing {
	return &clearing{mail, kept.notes, kept.clock, &kept.writing, round{notes: kept.notes, prefix: clearedPrefix}}
}

// A handled is mail that a receipt is for.
type handled struct {
	origin        spec.ServerName
	transactionID gomatrixserverlib.TransactionID
	digest        store.Digest
}

// A foundMail is the mail that receipts are for.
type foundMail struct {
	looked int // entries
	ids    []int64
	good   []wire.Receipt // those for which there was mail for half of the items, at least
}

// find looks for the mail that receipts of one destination are for.
func (c *clearing) find(ctx context.Context, destination spec.ServerName, list []wire.Receipt) (foundMail, error) {
	of := make(map[handled]int) // the receipt that the mail is in
	for i := range list {
		for _, item := range list[i].Items {
			of[handled{list[i].Origin, item.TransactionID, item.Digest}] = i
		}
	}
	var found foundMail
	counts, after := make([]int, len(list)), int64(0)
	for len(of) > 0 && found.looked < maxLooked {
		page, err := c.mail.List(ctx, destination, after, lookedPage)
		if err != nil {
			return foundMail{}, fmt.Errorf("relay: looking for mail: %w", err)
		}
		if len(page) == 0 {
			break
		}
		for _, entry := range page {
			mail := handled{entry.Origin, entry.TransactionID, entry.Digest}
			if i, ok := of[mail]; ok {
				delete(of, mail)
				counts[i]++
				found.ids = append(found.ids, entry.ID)
			}
		}
		found.looked, after = found.looked+len(page), page[len(page)-1].ID
	}
	for i, count := range counts {
		if count > 0 && 2*count >= len(list[i].Items) {
			found.good = append(found.good, list[i])
		}
	}
	return found, nil
}

// A clearedNote is a note: the IDs of entries, by when they were removed.
type clearedNote []clearedIDs

type clearedIDs struct {
	At  int64   `json:"at"` // in seconds of the store's clock
	IDs []int64 `json:"ids"`
}

// read returns the note of a destination without the IDs that are too old.
func (c *clearing) read(ctx context.Context, destination spec.ServerName) (note clearedNote, now int64, err error) {
	passed, err := c.clock(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("relay: the store's clock: %w", err)
	}
	value, err := notebook.Read(ctx, c.notes, clearedPrefix+string(destination))
	if err != nil {
		return nil, 0, fmt.Errorf("relay: reading about cleared mail: %w", err)
	}
	now = int64(passed / time.Second)
	return readClearedNote(value, now), now, nil
}

// readClearedNote leaves out marks that are too old. A note that can't be read is made anew.
func readClearedNote(value []byte, now int64) (note clearedNote) {
	if value == nil || json.Unmarshal(value, &note) != nil {
		return nil
	}
	return slices.DeleteFunc(note, func(c clearedIDs) bool { return now-c.At > int64(clearedLasts/time.Second) })
}

// forget takes the next notes away, in turn, in which all is too old: those of mailboxes
// from which nothing is cleared any more would else be kept for ever. The caller has no
// lock.
func (c *clearing) forget(ctx context.Context) error {
	passed, err := c.clock(ctx)
	if err != nil {
		return fmt.Errorf("relay: the store's clock: %w", err)
	}
	return c.cleared.step(ctx, func(destination spec.ServerName, value []byte) error {
		if len(readClearedNote(value, int64(passed/time.Second))) > 0 {
			return nil
		}
		unlock, err := c.writing.Take(ctx, destination)
		if err != nil {
			return err
		}
		defer unlock()
		if note, _, err := c.read(ctx, destination); err != nil || len(note) > 0 {
			return err
		}
		if err := c.notes.SetNotes(ctx, []store.Note{{Key: clearedPrefix + string(destination)}}); err != nil {
			return fmt.Errorf("relay: forgetting cleared mail: %w", err)
		}
		return nil
	})
}

// remove removes entries, and remembers their IDs first. The caller has the lock of the
// destination.
func (c *clearing) remove(ctx context.Context, destination spec.ServerName, ids []int64) (removed int, err error) {
	if len(ids) == 0 {
		return 0, nil
	}
	note, now, err := c.read(ctx, destination)
	if err != nil {
		return 0, err
	}
	value, err := json.Marshal(append(note, clearedIDs{now, ids}).greatest())
	if err == nil {
		err = c.notes.SetNotes(ctx, []store.Note{{Key: clearedPrefix + string(destination), Value: value}})
	}
	if err != nil {
		return 0, fmt.Errorf("relay: writing about cleared mail: %w", err)
	}
	if removed, err = c.mail.Remove(ctx, destination, ids); err != nil {
		return removed, fmt.Errorf("relay: removing mail: %w", err)
	}
	return removed, nil
}

// greatest is the note with at most maxCleared IDs.
func (n clearedNote) greatest() clearedNote {
	var all []int64
	for _, part := range n {
		all = append(all, part.IDs...)
	}
	if len(all) <= maxCleared {
		return n
	}
	slices.Sort(all)
	least, short := all[len(all)-maxCleared], clearedNote(nil)
	for _, part := range n {
		if part.IDs = slices.DeleteFunc(part.IDs, func(id int64) bool { return id < least }); len(part.IDs) > 0 {
			short = append(short, part)
		}
	}
	return short
}

// acknowledge is Store.Ack. An entry that was cleared still acknowledges those before it,
// which stores may have forgotten: its destination may have got it before.
func (c *clearing) acknowledge(ctx context.Context, mail store.Store, destination spec.ServerName, id int64) (removed int, err error) {
	if removed, err = mail.Ack(ctx, destination, id); err != nil {
		return 0, fmt.Errorf("relay: acknowledging an entry: %w", err)
	}
	if c == nil || removed > 0 {
		return removed, nil
	}
	last, err := c.lastBefore(ctx, destination, id)
	if err != nil || last == 0 {
		return 0, err
	}
	if removed, err = mail.Ack(ctx, destination, last); err != nil {
		return 0, fmt.Errorf("relay: acknowledging an entry: %w", err)
	}
	return removed, nil
}

// lastBefore returns the last entry before one that was cleared, 0 if there is none or
// that one wasn't cleared.
func (c *clearing) lastBefore(ctx context.Context, destination spec.ServerName, id int64) (last int64, err error) {
	note, _, err := c.read(ctx, destination)
	if err != nil || !slices.ContainsFunc(note, func(c clearedIDs) bool { return slices.Contains(c.IDs, id) }) {
		return 0, err
	}
	for {
		page, err := c.mail.List(ctx, destination, last, lookedPage)
		if err != nil {
			return 0, fmt.Errorf("relay: looking for mail: %w", err)
		}
		for _, entry := range page {
			if entry.ID >= id {
				return last, nil
			}
			last = entry.ID
		}
		if len(page) == 0 {
			return last, nil
		}
	}
}

package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/internal/table"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// ownedPrefix begins the keys of the notes about mailboxes; a server's name follows.
	ownedPrefix = "relay/owned/"

	// boxFresh is how long it isn't read again: another relay may change it.
	boxFresh = 10 * time.Second

	// leftLasts is for how long a mailbox stays left, unless its owner comes back.
	leftLasts = 120 * 24 * time.Hour

	// boxesKnown and boxesBytes bound the mailboxes that are remembered, and roughly
	// their memory.
	boxesKnown = 20_000
	boxesBytes = 32 << 20
)

// A box is the note about a mailbox whose owner has a say. It isn't changed.
type box struct {
	// Mailbox is the mailbox's name, empty if nothing was written down.
	Mailbox string `json:"mailbox"`

	// Left is when its owner left it, in seconds of the store's clock. Nil: it takes mail.
	Left *int64 `json:"left,omitempty"`

	// Policy has sorted lists.
	Policy *wire.MailboxPolicy `json:"policy,omitempty"`

	read time.Time
	size int // of its note
}

// box returns a mailbox, as it was a moment ago at least.
func (o *Owners) box(ctx context.Context, server spec.ServerName) (*box, error) {
	if found, ok := o.known.get(server); ok && time.Since(found.read) < boxFresh {
		return found, nil
	}
	return o.read(ctx, server)
}

// read returns a mailbox as it is. One that was left long ago counts as none, and so
// does one whose note can't be read: else nobody could ever set it right.
func (o *Owners) read(ctx context.Context, server spec.ServerName) (*box, error) {
	found := &box{read: time.Now()}
	value, err := notebook.Read(ctx, o.notes, ownedPrefix+string(server))
	if err != nil {
		return nil, fmt.Errorf("policy: reading the owner's policy: %w", err)
	}
	if value != nil && json.Unmarshal(value, found) != nil {
		found = &box{read: found.read}
	}
	if found.Left != nil {
		now, err := o.clock(ctx)
		if err != nil {
			return nil, fmt.Errorf("policy: the store's clock: %w", err)
		}
		if found.isOver(now) {
			found = &box{read: found.read}
		}
	}
	found.size = len(value)
	o.known.set(server, found)
	return found, nil
}

// isOver reports whether a mailbox was left so long ago that it is as if it never was.
func (b *box) isOver(now time.Duration) bool {
	return b.Left != nil && now-time.Duration(*b.Left)*time.Second > leftLasts
}

// write writes a mailbox down.
func (o *Owners) write(ctx context.Context, server spec.ServerName, b box) error {
	value, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("policy: writing the owner's policy: %w", err)
	}
	if err := o.notes.SetNotes(ctx, []store.Note{{Key: ownedPrefix + string(server), Value: value}}); err != nil {
		o.known.forget(server) // it may be written or not
		return fmt.Errorf("policy: writing the owner's policy: %w", err)
	}
	b.read, b.size = time.Now(), len(value)
	o.known.set(server, &b)
	return nil
}

// boxes remember mailboxes.
type boxes struct {
	mu    sync.Mutex
	table *table.Table[spec.ServerName, *box]
	bytes int
}

func newBoxes() *boxes { return &boxes{table: table.New[spec.ServerName, *box](boxesKnown)} }

func (b *boxes) get(server spec.ServerName) (*box, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.table.Get(server)
}

// set remembers a mailbox, unless it has changed since it was read.
func (b *boxes) set(server spec.ServerName, found *box) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if have, ok := b.table.Get(server); ok && have.read.After(found.read) {
		return
	}
	b.remove(server)
	for b.bytes+found.memory() > boxesBytes || b.table.IsFull() {
		last, ok := b.table.Last()
		if !ok {
			break
		}
		b.remove(last)
	}
	b.table.Set(server, found)
	b.bytes += found.memory()
}

func (b *boxes) forget(server spec.ServerName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.remove(server)
}

func (b *boxes) remove(server spec.ServerName) {
	if have, ok := b.table.Get(server); ok {
		b.bytes -= have.memory()
		b.table.Remove(server)
	}
}

// memory is roughly how much memory a box takes.
func (b *box) memory() int { return 2 * b.size }

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// bookPrefix begins the keys of a book's notes; a server's name follows.
	bookPrefix = "record/"

	// maxStrangers bounds the servers in a book that brought their records by
	// themselves, with 4 KiB each. When there are more, any of them is forgotten: names
	// may cost nothing, and those that came first must not keep all others out.
	maxStrangers = 2000
)

// A book keeps the relay records of servers in the notes of a store, and tells Peers the
// relays that they name and that have agreed. Methods of a nil one that are called by
// other parts do nothing.
type book struct {
	notes  store.Notes
	keys   gomatrixserverlib.JSONVerifier
	self   spec.ServerName
	peers  *Peers
	logger *slog.Logger

	writing sync.Mutex // one change at a time

	mu        sync.Mutex
	pages     map[spec.ServerName]*page // replaced, never changed
	strangers int                       // of them
	todo      todo
}

// A page is all that a book has of a server. It is a note, in JSON.
type page struct {
	Text json.RawMessage `json:"record,omitempty"`

	// Agreed are the relays that have shown a record which names them, and when, in
	// seconds since 1970.
	Agreed map[spec.ServerName]int64 `json:"agreed,omitempty"`

	// Through are the addresses by which those have agreed that did so by one.
	Through map[spec.ServerName]string `json:"through,omitempty"`

	// Kept says that its record isn't a stranger's: a person has given it, or Written.
	Kept bool `json:"kept,omitempty"`

	// Written says that this server writes to it, Told which record of ours it was
	// sent.
	Written bool   `json:"written,omitempty"`
	Told    uint64 `json:"told,omitempty"`

	record *wire.RelayRecord // nil if there is no Text
}

// openBook reads a book. Pages that can't be read are set aside.
func openBook(ctx context.Context, b *book) (*book, error) {
	b.pages, b.todo = make(map[spec.ServerName]*page), newTodo()
	err := notebook.Each(ctx, b.notes, bookPrefix, func(note store.Note) error {
		read, err := readPage(note.Value)
		if err != nil {
			return setAside(ctx, b.notes, b.logger, note, err)
		}
		server := spec.ServerName(strings.TrimPrefix(note.Key, bookPrefix))
		b.turn(server, read)
		b.peers.learn(server, read.relays())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("client: records: %w", err)
	}
	return b, nil
}

func readPage(value []byte) (*page, error) {
	p := &page{}
	if err := json.Unmarshal(value, p); err != nil || len(p.Text) == 0 {
		return p, err
	}
	record, err := wire.ReadRelayRecord(p.Text)
	p.record = &record
	return p, err
}

// relays are those that may be used.
func (p *page) relays() (agreed []spec.ServerName) {
	if p.record == nil {
		return nil
	}
	for _, relay := range p.record.Relays {
		if _, ok := p.Agreed[relay.Name]; ok {
			agreed = append(agreed, relay.Name)
		}
	}
	return agreed
}

// page returns all that is known of a server. It must not be changed.
func (b *book) page(server spec.ServerName) *page {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.pages[server]; p != nil {
		return p
	}
	return &page{}
}

// givesReceipts reports whether the record of a server says that it gives receipts.
func (b *book) givesReceipts(server spec.ServerName) bool {
	if b == nil {
		return false
	}
	record := b.page(server).record
	return record != nil && record.Receipts
}

// turn replaces a page, here only.
func (b *book) turn(server spec.ServerName, p *page) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if before := b.pages[server]; before != nil && !before.Kept {
		b.strangers--
	}
	if !p.Kept {
		b.strangers++
	}
	b.pages[server] = p
}

// servers returns those in the book that this server writes to, in order.
func (b *book) servers() []spec.ServerName {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []spec.ServerName
	for name, p := range b.pages {
		if p.Written {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// change changes the page of a server durably. If how returns an error it stays as it is.
func (b *book) change(ctx context.Context, server spec.ServerName, how func(*page) error) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	changed := *b.page(server)
	changed.Agreed, changed.Through = maps.Clone(changed.Agreed), maps.Clone(changed.Through)
	if err := how(&changed); err != nil {
		return err
	}
	value, err := json.Marshal(&changed)
	if err != nil {
		return fmt.Errorf("client: records: %w", err)
	}
	notes := []store.Note{{Key: bookPrefix + string(server), Value: value}}
	victim, isFull := b.victim(server, &changed)
	if isFull {
		notes = append(notes, store.Note{Key: bookPrefix + string(victim)})
	}
	if err := b.notes.SetNotes(ctx, notes); err != nil {
		return fmt.Errorf("client: records: %w", err)
	}
	if isFull {
		b.tear(victim)
	}
	b.turn(server, &changed)
	b.peers.learn(server, changed.relays())
	return nil
}

// untold returns the servers that this one writes to and hasn't sent that record of its
// own, in order.
func (b *book) untold(seq uint64) []spec.ServerName {
	return slices.DeleteFunc(b.servers(), func(server spec.ServerName) bool { return b.page(server).Told >= seq })
}

// errOlder says that the book has a record that is as new.
var errOlder = errors.New("the record isn't newer than the one that is known")

// take takes a record of another server into the book, unless it has one as new: then the
// error wraps errOlder. The error wraps wire.ErrSigned if the server didn't sign it. Unless
// it is to be kept, it may be forgotten for another one.
func (b *book) take(ctx context.Context, record wire.RelayRecord, kept bool) error {
	if record.Server == b.self {
		return errors.New("client: records: it is that of this server itself")
	}
	if err := record.Check(ctx, b.keys, time.Now()); err != nil {
		return fmt.Errorf("client: record of %s: %w", record.Server, err)
	}
	held := b.page(record.Server).record
	newer, err := held == nil, error(nil)
	if !newer { // which may look up keys, so nothing may be locked
		if newer, err = record.Replaces(ctx, held, b.keys, time.Now()); err != nil {
			return err
		}
	}
	err = b.change(ctx, record.Server, func(p *page) error {
		if p.record != held {
			newer = p.record.Precedes(&record) // another one came meanwhile
		}
		if !newer && (p.Kept || !kept) {
			return errOlder
		}
		p.Kept = p.Kept || kept
		if !newer {
			return nil
		}
		p.Text, p.record = record.JSON(), &record
		maps.DeleteFunc(p.Agreed, func(relay spec.ServerName, _ int64) bool { return !record.Names(relay) })
		maps.DeleteFunc(p.Through, func(relay spec.ServerName, address string) bool {
			return !slices.Contains(addressesIn(&record, relay), address)
		})
		return nil
	})
	if err == nil {
		b.warn(&record)
	}
	return err
}

// victim returns the stranger that is forgotten if a server gets that page, if there is one.
func (b *book) victim(server spec.ServerName, becomes *page) (victim spec.ServerName, isFull bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if becomes.Kept || b.pages[server] != nil || b.strangers < maxStrangers {
		return "", false
	}
	for name, p := range b.pages {
		if !p.Kept {
			return name, true
		}
	}
	return "", false
}

// tear removes a stranger's page, here only.
func (b *book) tear(server spec.ServerName) {
	b.mu.Lock()
	delete(b.pages, server)
	b.strangers--
	b.mu.Unlock()
	b.peers.learn(server, nil)
}

// warn tells the operator of relays by hand that their server doesn't name: it may have
// left them, and nobody fetches the mail that they take.
func (b *book) warn(record *wire.RelayRecord) {
	for _, relay := range b.peers.byHand(record.Server) {
		if !record.Names(relay) {
			b.logger.Warn("client: a relay that was entered by hand isn't one that its server names", "server", record.Server, "relay", relay)
		}
	}
}

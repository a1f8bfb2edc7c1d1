package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/internal/table"
	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
)

const (
	// claimsKnown is how many claims are remembered; others are looked up.
	claimsKnown = 20_000

	// claimFresh is how long one isn't looked up again: another relay on the same store
	// may take it away.
	claimFresh = time.Minute

	// askedEvery is how often it is written down that an owner has asked.
	askedEvery = 24 * time.Hour

	// claimLasts is how long a claim stays whose owner doesn't ask, when others want
	// its place; by the store's clock.
	claimLasts = 180 * 24 * time.Hour

	// claimsCountedFor is how long it isn't counted again how many claims there are.
	// Those that another relay makes on the same store are noticed then.
	claimsCountedFor = time.Minute
)

// errBooked says that all room is promised.
var errBooked = errors.New("policy: no room for another mailbox")

// claims are the mailboxes that are promised to their owners, in the notes of a store.
type claims struct {
	notes  store.Notes
	prefix string // of the keys of notes; a server's name follows
	clock  func(context.Context) (time.Duration, error)

	mu    sync.Mutex
	known *table.Table[spec.ServerName, knownClaim]
	gone  int // how often claims were forgotten

	writing turns.Turn // claims are made one at a time
	count   int        // of claims, as counted and made since
	counted time.Time  // when, the zero Time if never
}

// A knownClaim is a claim that is remembered.
type knownClaim struct {
	asked time.Duration // when the owner asked, as noted
	read  time.Time     // or written
}

// A claim is a note.
type claim struct {
	// Asked is when the owner asked last, in seconds of the store's clock.
	Asked int64 `json:"asked"`
}

// newClaims takes a store that has notes.
func newClaims(s store.Store, prefix string) (*claims, error) {
	notes, ok := s.(store.Notes)
	if !ok {
		return nil, errors.New("policy: the store keeps no notes, so claims would be forgotten")
	}
	return &claims{
		notes: notes, prefix: prefix, clock: notebook.Clock(s),
		writing: turns.New(), known: table.New[spec.ServerName, knownClaim](claimsKnown),
	}, nil
}

// has reports whether a server's mailbox is claimed, or was a moment ago.
func (c *claims) has(ctx context.Context, server spec.ServerName) (bool, error) {
	if c.isFresh(server) {
		return true, nil
	}
	gone := c.goneBy()
	found, err := c.read(ctx, server)
	if err != nil {
		return false, err
	}
	if found == nil { // another relay has taken it away, if there was one
		c.mu.Lock()
		defer c.mu.Unlock()
		c.known.Remove(server)
		return false, nil
	}
	c.rememberRead(server, time.Duration(found.Asked)*time.Second, gone)
	return true, nil
}

func (c *claims) isFresh(server spec.ServerName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.known.Get(server)
	return ok && time.Since(known.read) < claimFresh
}

func (c *claims) goneBy() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

func (c *claims) asked(server spec.ServerName) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.known.Get(server)
	return known.asked, ok
}

func (c *claims) remember(server spec.ServerName, asked time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known.Set(server, knownClaim{asked, time.Now()})
}

// rememberRead remembers a claim that was read, unless one has gone since the reading
// began, which may be this one.
func (c *claims) rememberRead(server spec.ServerName, asked time.Duration, gone int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone == gone {
		c.known.Set(server, knownClaim{asked, time.Now()})
	}
}

// forget forgets claims after they were taken away, or may have been.
func (c *claims) forget(removed ...store.Note) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone++
	for _, note := range removed {
		c.known.Remove(spec.ServerName(strings.TrimPrefix(note.Key, c.prefix)))
	}
}

// read looks a claim up; it is nil if there is none.
func (c *claims) read(ctx context.Context, server spec.ServerName) (*claim, error) {
	value, err := notebook.Read(ctx, c.notes, c.prefix+string(server))
	if err != nil {
		return nil, fmt.Errorf("policy: reading a claim: %w", err)
	}
	if value == nil {
		return nil, nil
	}
	found := &claim{}
	_ = json.Unmarshal(value, found) // one that can't be read still is one
	return found, nil
}

// renew notes, about daily, that the owner of a claimed mailbox has asked, unless a claim
// is being written: then it is noted when the owner asks again. A store that has to be
// reopened still hands mail out, so it is no error there that it can't.
func (c *claims) renew(ctx context.Context, server spec.ServerName) error {
	now, err := c.now(ctx)
	if err != nil {
		return err
	}
	asked, ok := c.asked(server)
	if since := now - asked; !ok || since >= 0 && since < askedEvery {
		return nil
	}
	if !c.writing.TryTake() {
		return nil
	}
	defer c.writing.Give()
	if _, ok := c.asked(server); !ok {
		return nil // it was given up just now
	}
	if err := c.write(ctx, server, now, nil); !errors.Is(err, store.ErrReopen) {
		return err
	}
	return nil
}

func (c *claims) now(ctx context.Context) (time.Duration, error) {
	now, err := c.clock(ctx)
	if err != nil {
		return 0, fmt.Errorf("policy: the store's clock: %w", err)
	}
	return now, nil
}

// write writes a claim down, and other notes with it.
func (c *claims) write(ctx context.Context, server spec.ServerName, now time.Duration, also []store.Note) error {
	value, err := json.Marshal(claim{Asked: int64(now / time.Second)})
	if err != nil {
		return fmt.Errorf("policy: writing a claim: %w", err)
	}
	changes := append(also, store.Note{Key: c.prefix + string(server), Value: value})
	if err := c.notes.SetNotes(ctx, changes); err != nil {
		return fmt.Errorf("policy: writing a claim: %w", err)
	}
	c.remember(server, now)
	return nil
}

// add claims a mailbox, if it isn't claimed and fewer than that many are; else the error
// is errBooked. The callback returns notes to be written with the claim, or refuses it.
func (c *claims) add(ctx context.Context, server spec.ServerName, most int, also func() ([]store.Note, error)) error {
	now, err := c.now(ctx)
	if err != nil {
		return err
	}
	if err := c.writing.Take(ctx); err != nil {
		return err
	}
	defer c.writing.Give()
	if found, err := c.read(ctx, server); err != nil || found != nil {
		return err
	}
	if err := c.makeRoom(ctx, most, now); err != nil {
		return err
	}
	notes, err := also()
	if err != nil {
		return err
	}
	if err := c.write(ctx, server, now, notes); err != nil {
		return err
	}
	c.count++
	return nil
}

// remove gives up a claim, if there is one.
func (c *claims) remove(ctx context.Context, server spec.ServerName) error {
	if err := c.writing.Take(ctx); err != nil {
		return err
	}
	defer c.writing.Give()
	note := store.Note{Key: c.prefix + string(server)}
	err := c.notes.SetNotes(ctx, []store.Note{note})
	c.forget(note)
	if err != nil {
		return fmt.Errorf("policy: removing a claim: %w", err)
	}
	c.counted = time.Time{} // there is room for another
	return nil
}

// makeRoom finds out whether there is room for one more claim. If there is none, it takes
// away those whose owners haven't asked for long, with the policies of these owners.
func (c *claims) makeRoom(ctx context.Context, most int, now time.Duration) error {
	isFresh := !c.counted.IsZero() && time.Since(c.counted) < claimsCountedFor
	if isFresh && c.count < most {
		return nil
	}
	if isFresh {
		return errBooked
	}
	old, err := c.countAll(ctx, now)
	if err != nil || c.count < most {
		return err
	}
	if c.count-len(old) >= most {
		return errBooked
	}
	var changes []store.Note
	for _, note := range old {
		changes = append(changes, note, store.Note{Key: ownedPrefix + strings.TrimPrefix(note.Key, c.prefix)})
	}
	err = notebook.Remove(ctx, c.notes, changes)
	c.forget(old...)
	if err != nil {
		return fmt.Errorf("policy: removing old claims: %w", err)
	}
	c.count -= len(old)
	return nil
}

// countAll counts all claims and returns the changes that remove the old ones of them.
func (c *claims) countAll(ctx context.Context, now time.Duration) (old []store.Note, err error) {
	count := 0
	err = notebook.Each(ctx, c.notes, c.prefix, func(note store.Note) error {
		count++
		var found claim
		if json.Unmarshal(note.Value, &found) == nil && now-time.Duration(found.Asked)*time.Second > claimLasts {
			old = append(old, store.Note{Key: note.Key})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("policy: counting claims: %w", err)
	}
	c.count, c.counted = count, time.Now()
	return old, nil
}

package client

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
)

// A progress is how far a relay is with the transactions of one destination. It
// is stored as JSON. The zero value is a relay that was given none.
type progress struct {
	// Done is the position up to which the relay has everything, but for transactions
	// that it has refused and those that are still owed to it.
	Done int64 `json:"done"`

	// Refused are those of Done that it has refused for good, in order. Those up
	// to Unclear may be among them or not.
	Refused []int64 `json:"refused,omitempty"`
	Unclear int64   `json:"unclear,omitempty"`

	// Owed are those of Done that it couldn't take, while others behind them
	// waited: they are tried again.
	Owed []int64 `json:"owed,omitempty"`

	Again again `json:"again,omitzero"`

	owedDue time.Time
	inquiry inquiry

	unsaved bool // it has changed since it was written down
	noted   bool // there is a note of it
}

// Bounds of progress.Refused and progress.Owed.
const (
	maxRefused = 100
	maxOwed    = 16
)

// through notes that nothing more is to be done with the transaction at a
// position.
func (p *progress) through(position int64) {
	p.Done, p.unsaved = max(p.Done, position), true
	p.Owed = slices.DeleteFunc(p.Owed, func(owed int64) bool { return owed == position })
	p.Again.passed(position)
}

// refused notes that the relay will never take it.
func (p *progress) refused(position int64) {
	p.through(position)
	if i, found := slices.BinarySearch(p.Refused, position); !found {
		p.Refused = slices.Insert(p.Refused, i, position)
	}
	if len(p.Refused) > maxRefused {
		p.Unclear = max(p.Unclear, p.Refused[0])
		p.Refused = p.Refused[1:]
	}
}

// owe notes that it is to be tried again at that time, after those behind it. It
// reports whether these may be tried now.
func (p *progress) owe(position int64, due time.Time) bool {
	p.owedDue = due
	p.Again.passed(position)
	if slices.Contains(p.Owed, position) {
		return true
	}
	if len(p.Owed) >= maxOwed {
		return false
	}
	p.Done, p.unsaved = max(p.Done, position), true
	p.Owed = append(p.Owed, position)
	return true
}

// has reports whether the relay is known to have it.
func (p *progress) has(position int64) bool {
	return p.isThrough(position) && position > p.Unclear && !slices.Contains(p.Refused, position)
}

// isThrough reports whether the relay has it or has refused it.
func (p *progress) isThrough(position int64) bool {
	return position <= p.Done && !slices.Contains(p.Owed, position)
}

// progressOf returns the progress of a relay. The lock must be held.
func (d *destination) progressOf(relay spec.ServerName) *progress {
	if d.relays[relay] == nil {
		d.relays[relay] = &progress{}
	}
	return d.relays[relay]
}

// at returns how many of those relays have a transaction, and whether all of
// them have it or have refused it. The lock must be held.
func (d *destination) at(position int64, relays []spec.ServerName) (count int, all bool) {
	all = true
	for _, relay := range relays {
		p := d.progressOf(relay)
		if p.has(position) {
			count++
		}
		all = all && p.isThrough(position)
	}
	return count, all
}

// save writes down how far a relay is. A crash before that costs copies.
func (o *Outbox) save(ctx context.Context, d *destination, relay spec.ServerName) error {
	if o.notes == nil {
		return nil
	}
	d.mu.Lock()
	p := d.progressOf(relay)
	if !p.unsaved {
		d.mu.Unlock()
		return nil
	}
	value, err := json.Marshal(p)
	p.unsaved, p.noted = false, true
	d.mu.Unlock()
	if err != nil {
		return err
	}
	err = o.notes.SetNotes(context.WithoutCancel(ctx), []store.Note{{Key: o.noteKey(d.name, relay), Value: value}})
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		p.unsaved = true
	}
	return err
}

// forget drops all notes on a destination for which there is nothing left.
func (o *Outbox) forget(ctx context.Context, d *destination) error {
	d.mu.Lock()
	var notes []store.Note
	for relay, p := range d.relays {
		if p.noted {
			notes = append(notes, store.Note{Key: o.noteKey(d.name, relay)})
		}
	}
	clear(d.relays)
	d.mu.Unlock()
	if len(notes) == 0 {
		return nil
	}
	return o.notes.SetNotes(context.WithoutCancel(ctx), notes)
}

// noteKey is where the progress of a relay is kept. No server name has a slash.
func (o *Outbox) noteKey(destination, relay spec.ServerName) string {
	return o.notePrefix + string(destination) + "/" + string(relay)
}

// loadProgress reads the notes, and drops those of no use: notes on destinations
// that have nothing, and notes that can't be read.
func (o *Outbox) loadProgress(ctx context.Context) error {
	var stale []store.Note
	err := notebook.Each(ctx, o.notes, o.notePrefix, func(note store.Note) error {
		name, relay, ok := strings.Cut(strings.TrimPrefix(note.Key, o.notePrefix), "/")
		d := o.schedule.find(spec.ServerName(name))
		p := &progress{noted: true}
		if !ok || d == nil || json.Unmarshal(note.Value, p) != nil {
			stale = append(stale, store.Note{Key: note.Key})
			return nil
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.relays[spec.ServerName(relay)] = p
		return nil
	})
	if err != nil {
		return err
	}
	return notebook.Remove(ctx, o.notes, stale)
}

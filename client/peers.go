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

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/internal/stripes"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// notePrefix begins the keys of a Peers' notes.
const notePrefix = "peer/"

// Peers knows which servers relay for which others, and which count as offline. Make
// one with NewPeers or OpenPeers. It is safe for concurrent use.
type Peers struct {
	notes store.Notes // nil: nothing is kept

	// A server's changes are written one after the other, those of different
	// servers together.
	writing stripes.Locks

	mu       sync.RWMutex
	peers    map[spec.ServerName]*peer // replaced, never changed
	watching map[*watcher]struct{}
}

// A watcher is told of servers that got other relays.
type watcher struct{ tell func(spec.ServerName) }

// A peer is all that is known of a server. It is stored as JSON.
type peer struct {
	Relays  []spec.ServerName `json:"relays,omitempty"` // by hand, in order, each once
	Only    bool              `json:"only,omitempty"`   // there are no others
	Offline bool              `json:"offline,omitempty"`

	learnt   []spec.ServerName // likewise, from its record, which a book keeps
	failures int               // direct attempts since the last success
	unkept   bool              // writing it down failed
}

// inUse returns the relays that a server is known to have, in order, each once.
func (p *peer) inUse() []spec.ServerName {
	if p.Only || len(p.learnt) == 0 {
		return p.Relays
	}
	all := slices.Concat(p.Relays, p.learnt)
	slices.Sort(all)
	return slices.Compact(all)
}

// NewPeers makes a Peers that forgets everything with the process.
func NewPeers() *Peers {
	return &Peers{peers: make(map[spec.ServerName]*peer), watching: make(map[*watcher]struct{})}
}

// OpenPeers makes a Peers that is kept in a store's notes, and reads those that are
// there; one that can't be read is logged and set aside, below the key damaged/. Changes
// through one Peers aren't seen by another.
func OpenPeers(ctx context.Context, notes store.Notes) (*Peers, error) {
	return openPeers(ctx, notes, slog.Default())
}

func openPeers(ctx context.Context, notes store.Notes, logger *slog.Logger) (*Peers, error) {
	p := NewPeers()
	p.notes = notes
	err := notebook.Each(ctx, notes, notePrefix, func(note store.Note) error {
		var read peer
		if err := json.Unmarshal(note.Value, &read); err != nil {
			return setAside(ctx, notes, logger, note, err)
		}
		p.peers[spec.ServerName(strings.TrimPrefix(note.Key, notePrefix))] = &read
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("client: peers: %w", err)
	}
	return p, nil
}

// AddRelays makes servers known as relays of server, by hand. An error means that the
// change isn't kept.
func (p *Peers) AddRelays(ctx context.Context, server spec.ServerName, relays ...spec.ServerName) error {
	return p.changeRelays(ctx, server, relays, func(have []spec.ServerName) []spec.ServerName {
		return slices.Concat(have, relays)
	})
}

// SetRelays makes these servers, and no others, known as relays of server by hand. Those
// that the server itself names in its record are known besides: see OnlyByHand. An
// error means that the change isn't kept.
func (p *Peers) SetRelays(ctx context.Context, server spec.ServerName, relays ...spec.ServerName) error {
	return p.changeRelays(ctx, server, relays, func([]spec.ServerName) []spec.ServerName {
		return slices.Clone(relays)
	})
}

// OnlyByHand says whether a server has no other relays than those that were entered by
// hand, whatever its record names. An error means that the change isn't kept.
func (p *Peers) OnlyByHand(ctx context.Context, server spec.ServerName, only bool) error {
	return p.change(ctx, server, func(have *peer) { have.Only = only })
}

// learn sets the relays that the record of a server names and that have agreed.
func (p *Peers) learn(server spec.ServerName, relays []spec.ServerName) {
	slices.Sort(relays)
	before, after := p.apply(server, func(have *peer) { have.learnt = relays })
	if !slices.Equal(before.inUse(), after.inUse()) {
		p.tell(server)
	}
}

// byHand returns the relays of a server that were entered by hand.
func (p *Peers) byHand(server spec.ServerName) []spec.ServerName {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Clone(p.get(server).Relays)
}

func (p *Peers) changeRelays(ctx context.Context, server spec.ServerName, relays []spec.ServerName, how func(have []spec.ServerName) []spec.ServerName) error {
	for _, name := range append([]spec.ServerName{server}, relays...) {
		if wire.CheckName(name) != nil {
			return fmt.Errorf("client: peers: %q is not a server name", name)
		}
	}
	if slices.Contains(relays, server) {
		return errors.New("client: peers: a server can't be its own relay")
	}
	return p.change(ctx, server, func(have *peer) {
		have.Relays = how(have.Relays)
		slices.Sort(have.Relays)
		have.Relays = slices.Compact(have.Relays)
	})
}

// RemoveRelays forgets that servers are relays of server. An error means that
// the change isn't kept.
func (p *Peers) RemoveRelays(ctx context.Context, server spec.ServerName, relays ...spec.ServerName) error {
	return p.change(ctx, server, func(have *peer) {
		have.Relays = slices.DeleteFunc(slices.Clone(have.Relays), func(r spec.ServerName) bool {
			return slices.Contains(relays, r)
		})
	})
}

// Relays returns the relays of server, in order. The slice is the caller's.
func (p *Peers) Relays(server spec.ServerName) []spec.ServerName {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Clone(p.get(server).inUse())
}

// Relayed returns the servers that have relays, in order.
func (p *Peers) Relayed() []spec.ServerName {
	return p.list(func(have *peer) bool { return len(have.inUse()) > 0 })
}

// SetOffline says whether server counts as offline. A Sender does this by
// itself; an error means that the change isn't kept.
func (p *Peers) SetOffline(ctx context.Context, server spec.ServerName, offline bool) error {
	return p.change(ctx, server, func(have *peer) {
		have.Offline = offline
		have.failures = 0
	})
}

// Offline reports whether server counts as offline.
func (p *Peers) Offline(server spec.ServerName) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.get(server).Offline
}

// OfflineServers returns the servers that count as offline, in order.
func (p *Peers) OfflineServers() []spec.ServerName {
	return p.list(func(have *peer) bool { return have.Offline })
}

// forget has a server without relays no longer count as offline, for when
// nothing waits for it: others can make up any number of them.
func (p *Peers) forget(ctx context.Context, server spec.ServerName) error {
	p.mu.RLock()
	have := p.get(server)
	keep := len(have.inUse()) > 0 || !have.Offline && have.failures == 0
	p.mu.RUnlock()
	if keep {
		return nil
	}
	return p.SetOffline(ctx, server, false)
}

// reached says that server has answered.
func (p *Peers) reached(ctx context.Context, server spec.ServerName) error {
	p.mu.RLock()
	have := p.get(server)
	nothingNew := !have.Offline && have.failures == 0
	p.mu.RUnlock()
	if nothingNew {
		return nil
	}
	return p.SetOffline(ctx, server, false)
}

// failed says that server hasn't answered, and reports whether it counts as
// offline now. After that many failures it does.
func (p *Peers) failed(ctx context.Context, server spec.ServerName, enough int) (offline bool, err error) {
	err = p.change(ctx, server, func(have *peer) {
		have.failures++
		have.Offline = have.Offline || have.failures >= enough
	})
	return p.Offline(server), err
}

// get returns all that is known of server. It must not be changed.
func (p *Peers) get(server spec.ServerName) *peer {
	if have := p.peers[server]; have != nil {
		return have
	}
	return &peer{}
}

func (p *Peers) list(want func(*peer) bool) []spec.ServerName {
	p.mu.RLock()
	defer p.mu.RUnlock()
	names := []spec.ServerName{}
	for name, have := range p.peers {
		if want(have) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// change changes all that is known of server, here at once, and in the notes. A
// server of which nothing is known takes no room.
func (p *Peers) change(ctx context.Context, server spec.ServerName, how func(*peer)) error {
	defer p.writing.Lock(server)()
	before, after := p.apply(server, how)
	if !slices.Equal(before.inUse(), after.inUse()) {
		defer p.tell(server)
	}
	same := before.Offline == after.Offline && before.Only == after.Only && slices.Equal(before.Relays, after.Relays)
	if p.notes == nil || !before.unkept && same {
		return nil
	}
	err := p.keep(ctx, server, after)
	p.apply(server, func(have *peer) { have.unkept = err != nil })
	return err
}

// apply changes all that is known of server, here only.
func (p *Peers) apply(server spec.ServerName, how func(*peer)) (before, after *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before = p.get(server)
	changed := *before
	how(&changed)
	known := len(changed.Relays) > 0 || len(changed.learnt) > 0 || changed.Only
	if !known && !changed.Offline && changed.failures == 0 && !changed.unkept {
		delete(p.peers, server)
	} else {
		p.peers[server] = &changed
	}
	return before, &changed
}

// watch has tell called when a server has got other relays, until stop is
// called. Tell must be quick.
func (p *Peers) watch(tell func(spec.ServerName)) (stop func()) {
	w := &watcher{tell}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watching[w] = struct{}{}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watching, w)
	}
}

func (p *Peers) tell(server spec.ServerName) {
	p.mu.RLock()
	watching := slices.Collect(maps.Keys(p.watching))
	p.mu.RUnlock()
	for _, w := range watching { // a watcher may ask Peers
		w.tell(server)
	}
}

func (p *Peers) keep(ctx context.Context, server spec.ServerName, have *peer) error {
	note := store.Note{Key: notePrefix + string(server)}
	if len(have.Relays) > 0 || have.Offline || have.Only {
		var err error
		if note.Value, err = json.Marshal(have); err != nil {
			return fmt.Errorf("client: peers: %w", err)
		}
	}
	if err := p.notes.SetNotes(ctx, []store.Note{note}); err != nil {
		return fmt.Errorf("client: peers: %w", err)
	}
	return nil
}

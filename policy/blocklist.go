package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// MaxBlocks bounds a Blocklist, and MaxBlockReason the reason of a Block, in bytes.
const (
	MaxBlocks      = 10_000
	MaxBlockReason = 500
)

// Errors of Blocklist.Block.
var (
	// ErrBlock says that a Block names neither a server nor an address, or that its
	// reason is too long.
	ErrBlock = errors.New("policy: not something to block")

	// ErrManyBlocks says that there are MaxBlocks already.
	ErrManyBlocks = errors.New("policy: there are too many blocks")
)

const (
	blockPrefix = "relay/block/" // of the keys of notes

	// blocksAge is how old a Blocklist may be before it reads the notes again, since
	// another process may have changed them.
	blocksAge = time.Minute

	// blocksPatience is how long that may take.
	blocksPatience = 10 * time.Second
)

// A Block refuses a server or addresses.
type Block struct {
	// Entity is an address, a prefix such as 192.0.2.0/24, or a server. A server without a
	// port means all ports, *.example.org all servers below example.org, and upper and
	// lower case are the same, as are names with and without a dot at their end: with
	// these its owner could take another name.
	Entity string `json:"entity"`

	// Reason is the operator's note on it, which nobody else is told. Since is the
	// machine's time at which it was blocked.
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
}

// A Blocklist refuses all requests of the servers and from the addresses that the
// operator has blocked, also mail of such a server that another server passes on. It is
// kept in the notes of the store; other processes on the same store follow within a
// minute. It is safe for concurrent use.
type Blocklist struct {
	notes store.Notes

	writing turns.Turn // held to change the notes, or to read them all

	mu     sync.RWMutex
	read   time.Time
	blocks map[string]Block
	bits   []int // the lengths of the prefixes in it
}

var _ Policy = (*Blocklist)(nil)

// NewBlocklist reads the list from a store, which must have the ability store.Notes.
func NewBlocklist(ctx context.Context, s store.Store) (*Blocklist, error) {
	notes, ok := s.(store.Notes)
	if !ok {
		return nil, errors.New("policy: the store keeps no notes, so blocks would be forgotten")
	}
	b := &Blocklist{notes: notes, writing: turns.New()}
	return b, b.reload(ctx)
}

// reload reads all notes.
func (b *Blocklist) reload(ctx context.Context) error {
	if err := b.writing.Take(ctx); err != nil {
		return fmt.Errorf("policy: waiting for other blocks: %w", err)
	}
	defer b.writing.Give()
	return b.load(ctx)
}

func (b *Blocklist) load(ctx context.Context) error {
	blocks := make(map[string]Block)
	err := notebook.Each(ctx, b.notes, blockPrefix, func(note store.Note) error {
		block := Block{}
		_ = json.Unmarshal(note.Value, &block) // one that can't be read still is one
		block.Entity = note.Key[len(blockPrefix):]
		blocks[block.Entity] = block
		return nil
	})
	if err != nil {
		return fmt.Errorf("policy: reading the blocks: %w", err)
	}
	b.set(blocks)
	return nil
}

func (b *Blocklist) set(blocks map[string]Block) {
	var bits []int
	for entity := range blocks {
		if prefix, err := netip.ParsePrefix(entity); err == nil {
			bits = append(bits, prefix.Bits())
		}
	}
	slices.Sort(bits)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blocks, b.bits, b.read = blocks, slices.Compact(bits), time.Now()
}

// Block blocks a server or addresses, or changes the reason. It returns nil once that
// would survive a power cut, and returns the Block as it is kept.
func (b *Blocklist) Block(ctx context.Context, block Block) (Block, error) {
	entity, err := blockable(block.Entity)
	if err == nil && len(block.Reason) > MaxBlockReason {
		err = fmt.Errorf("%w: the reason has more than %d bytes", ErrBlock, MaxBlockReason)
	}
	if err != nil {
		return Block{}, err
	}
	block.Entity = entity
	if block.Since.IsZero() {
		block.Since = time.Now().UTC().Truncate(time.Second)
	}
	return block, b.change(ctx, entity, &block)
}

// Unblock ends a block, and reports whether there was one.
func (b *Blocklist) Unblock(ctx context.Context, entity string) (found bool, err error) {
	if entity, err = blockable(entity); err != nil {
		return false, err
	}
	if err := b.reload(ctx); err != nil {
		return false, err
	}
	if _, found = b.get(entity); !found {
		return false, nil
	}
	return true, b.change(ctx, entity, nil)
}

// change sets one note, and reads all.
func (b *Blocklist) change(ctx context.Context, entity string, block *Block) error {
	if err := b.writing.Take(ctx); err != nil {
		return fmt.Errorf("policy: waiting for other blocks: %w", err)
	}
	defer b.writing.Give()
	note := store.Note{Key: blockPrefix + entity}
	if block != nil {
		if _, known := b.get(entity); !known && b.len() >= MaxBlocks {
			return ErrManyBlocks
		}
		var err error
		if note.Value, err = json.Marshal(block); err != nil {
			return fmt.Errorf("policy: the note of a block: %w", err)
		}
	}
	if err := b.notes.SetNotes(ctx, []store.Note{note}); err != nil {
		return fmt.Errorf("policy: writing a block: %w", err)
	}
	return b.load(ctx)
}

func (b *Blocklist) len() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.blocks)
}

// blockable returns the one way in which a server, an address or a prefix is written.
func blockable(entity string) (string, error) {
	if prefix, err := netip.ParsePrefix(entity); err == nil {
		if prefix.Addr().Is4In6() {
			return "", fmt.Errorf("%w: write %q as a prefix of IPv4", ErrBlock, entity)
		}
		return prefix.Masked().String(), nil
	}
	if addr, err := netip.ParseAddr(entity); err == nil {
		return addr.Unmap().WithZone("").String(), nil
	}
	const longest = 255 // more than any server's name has
	name := strings.TrimSuffix(strings.ToLower(entity), ".")
	if len(name) > longest {
		return "", fmt.Errorf("%w: it has %d bytes", ErrBlock, len(name))
	}
	if err := wire.CheckName(spec.ServerName(strings.TrimPrefix(name, "*."))); err != nil {
		return "", fmt.Errorf("%w: %q is no address, no prefix and no server: %w", ErrBlock, entity, err)
	}
	return name, nil
}

// Blocked returns up to limit blocks (a limit below 1 counts as 1) in the order of Entity,
// from the first that is greater than after.
func (b *Blocklist) Blocked(after string, limit int) []Block {
	b.mu.RLock()
	defer b.mu.RUnlock()
	page := []Block{}
	for _, block := range slices.SortedFunc(maps.Values(b.blocks), func(x, y Block) int { return cmp.Compare(x.Entity, y.Entity) }) {
		if block.Entity > after && len(page) < max(limit, 1) {
			page = append(page, block)
		}
	}
	return page
}

// Admit implements Policy.
func (b *Blocklist) Admit(ctx context.Context, r *Request) error {
	b.keepUp(ctx)
	switch {
	case r.Stage == Arrived && b.hasAddress(r.Address):
		return wire.Forbidden("this relay doesn't serve this address")
	case r.Stage == Claimed:
		if b.hasServer(r.Origin) {
			return wire.Forbidden("this relay doesn't serve " + string(r.Origin))
		}
	}
	return nil
}

// hasServer looks for the name, for its host, and for all domains that it is below.
func (b *Blocklist) hasServer(server spec.ServerName) bool {
	name := strings.ToLower(string(server))
	host, _, _ := spec.ParseAndValidateServerName(spec.ServerName(name))
	host = strings.TrimSuffix(host, ".")
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, one := range []string{name, host, strings.Trim(host, "[]")} {
		if _, ok := b.blocks[one]; ok {
			return true
		}
	}
	for at, letter := range host {
		if letter != '.' {
			continue
		}
		if _, ok := b.blocks["*"+host[at:]]; ok {
			return true
		}
	}
	return false
}

// keepUp reads the notes when they may have changed. While that fails, and while another
// request does it, the list is as it was.
func (b *Blocklist) keepUp(ctx context.Context) {
	b.mu.RLock()
	isOld := time.Since(b.read) > blocksAge
	b.mu.RUnlock()
	if !isOld || !b.writing.TryTake() {
		return
	}
	defer b.writing.Give()
	// A client that goes away must not keep us from hearing that it is blocked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), blocksPatience)
	defer cancel()
	if err := b.load(ctx); err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.read = time.Now() // not again with each request
	}
}

func (b *Blocklist) get(entity string) (Block, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	block, ok := b.blocks[entity]
	return block, ok
}

func (b *Blocklist) hasAddress(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return false
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if _, ok := b.blocks[addr.String()]; ok {
		return true
	}
	for _, bits := range b.bits {
		prefix, err := addr.Prefix(bits)
		if err != nil { // of IPv6 alone
			continue
		}
		if _, ok := b.blocks[prefix.String()]; ok {
			return true
		}
	}
	return false
}

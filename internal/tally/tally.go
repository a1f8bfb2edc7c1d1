// Package tally logs events that strangers can cause as often as they like: the first of
// each kind, and then one line a minute.
package tally

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrixrelay/relay/internal/frequent"
)

const (
	every    = time.Minute
	maxKinds = 64
	others   = "others" // kinds over maxKinds
)

// A Tally logs the first of each kind as it comes, and then, a minute after the first
// that it hasn't logged, one line with a count for each kind and where most of them
// came from. It is safe for concurrent use.
type Tally struct {
	log     *slog.Logger
	message string // of the line that counts

	mu        sync.Mutex
	kinds     map[string]int // not logged yet
	known     map[string]struct{}
	addresses frequent.Top
	names     frequent.Top
	timer     *time.Timer // while there is something to log
	closed    bool
}

// New makes a Tally, which must be closed.
func New(log *slog.Logger, message string) *Tally {
	return &Tally{
		log: log, message: message, kinds: make(map[string]int), known: make(map[string]struct{}),
		addresses: frequent.New(maxTop), names: frequent.New(maxTop),
	}
}

// Note counts one. The address or the name may be empty. If it is the first of its
// kind, it is logged with that message and these arguments. Of a name that is longer
// than any should be only the beginning is kept: strangers can make up any name.
func (t *Tally) Note(kind, address, name, message string, args ...any) {
	name = frequent.Short(name)
	if t.count(kind, address, name) {
		t.log.Warn(message, append([]any{"kind", kind, "address", address, "name", name}, args...)...)
	}
}

func (t *Tally) count(kind, address, name string) (isFirst bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if _, known := t.known[kind]; !known {
		if len(t.known) < maxKinds {
			t.known[kind] = struct{}{}
			return true
		}
		kind = others
	}
	t.kinds[kind]++
	t.addresses.Add(address)
	t.names.Add(name)
	if t.timer == nil {
		t.timer = time.AfterFunc(every, t.flush)
	}
	return false
}

// flush logs the counts, while others may count: a log may be slow.
func (t *Tally) flush() {
	if args := t.take(); args != nil {
		t.log.Warn(t.message, args...)
	}
}

// take returns the counts for the log, nil if there are none, and begins anew.
func (t *Tally) take() (args []any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	if len(t.kinds) == 0 {
		return nil
	}
	for _, kind := range slices.Sorted(maps.Keys(t.kinds)) {
		args = append(args, slog.Int(kind, t.kinds[kind]))
	}
	args = append(args, "addresses", text(&t.addresses), "names", text(&t.names))
	clear(t.kinds)
	t.addresses, t.names = frequent.New(maxTop), frequent.New(maxTop)
	return args
}

// Close logs the counts, and counts no more. It may be called more than once.
func (t *Tally) Close() {
	t.flush()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.timer != nil { // begun between the two
		t.timer.Stop()
	}
}

const (
	maxTop = 64 // that are counted
	shown  = 3
)

// text lists the most frequent.
func text(t *frequent.Top) string {
	var list []string
	for _, c := range t.List(shown) {
		list = append(list, fmt.Sprintf("%s (%d)", c.Name, c.Times))
	}
	return strings.Join(list, ", ")
}

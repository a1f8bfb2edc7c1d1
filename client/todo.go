package client

import (
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// todo has the questions of a book that are open. Its methods are called with the book locked.
type todo struct {
	wake    chan struct{}
	wanted  map[spec.ServerName]struct{}
	failing map[spec.ServerName]time.Time // wanted again then, since a relay hasn't answered
	hints   map[pair]uint64               // numbers of records that relays say they have
	shown   *wire.RelayRecord             // one of this server, that it was sent

	asked  map[pair]time.Time            // when, likewise
	hosts  map[string]time.Time          // when one was asked that hasn't shown to be a relay
	proven map[string]time.Time          // when one has
	hinted map[spec.ServerName]time.Time // when a hint of it was followed that was wrong
	silent *backoffs[string]             // hosts that haven't answered, by name or silentAt
}

func newTodo() todo {
	return todo{
		wake: make(chan struct{}, 1), wanted: make(map[spec.ServerName]struct{}), hints: make(map[pair]uint64),
		failing: make(map[spec.ServerName]time.Time),
		asked:   make(map[pair]time.Time), hosts: make(map[string]time.Time),
		proven: make(map[string]time.Time), hinted: make(map[spec.ServerName]time.Time),
		silent: newBackoffs[string](Backoff{First: silentFirst, Most: askedEvery}),
	}
}

func (t *todo) awake() {
	select {
	case t.wake <- struct{}{}:
	default: // it is awake
	}
}

// mayAsk reports whether a relay may be asked about a server now, which counts as asking.
func (t *todo) mayAsk(p pair, now time.Time) bool {
	if now.Sub(t.asked[p]) < askedEvery || !t.mayReach(hostOf(p.relay), now) {
		return false
	}
	note(t.asked, p, now)
	return true
}

// mayReach reports whether a question may go to a host now, which counts as asking.
func (t *todo) mayReach(host string, now time.Time) bool {
	if now.Sub(t.proven[host]) < agreementLasts {
		return true
	}
	if now.Sub(t.hosts[host]) < askedEvery {
		return false
	}
	note(t.hosts, host, now)
	return true
}

// mayReachAt is mayReach for the host of an address in a record. One that is silent may be
// no relay at all, so it is left alone, whichever relays it is said to be.
func (t *todo) mayReachAt(address string, now time.Time) bool {
	host := hostAt(address)
	isProven := now.Sub(t.proven[host]) < agreementLasts
	return (isProven || t.silent.wait(silentAt(address)) == 0) && t.mayReach(host, now)
}

// silentAt is the key under which the host of an address is silent. It isn't that of the
// host's own name, since others could make that silent by their records.
func silentAt(address string) string { return "at " + hostAt(address) }

func note[K comparable](m map[K]time.Time, key K, now time.Time) {
	if _, ok := m[key]; !ok {
		makeRoom(m, maxBackoffs)
	}
	m[key] = now
}

// takeTodo returns all that is to be found out now.
func (b *book) takeTodo() (wanted map[spec.ServerName]struct{}, hints map[pair]uint64, shown *wire.RelayRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := &b.todo
	wanted, hints, shown = t.wanted, t.hints, t.shown
	now := time.Now()
	for server, until := range t.failing {
		if !until.After(now) {
			delete(t.failing, server)
			wanted[server] = struct{}{}
		}
	}
	t.wanted, t.hints, t.shown = make(map[spec.ServerName]struct{}), make(map[pair]uint64), nil
	return wanted, hints, shown
}

// fails notes that a relay of a server didn't answer: once it may be asked again, all of
// that server's are.
func (b *book) fails(server spec.ServerName, relay string) {
	until := time.Now().Add(b.todo.silent.wait(relay))
	b.mu.Lock()
	defer b.mu.Unlock()
	if before, ok := b.todo.failing[server]; ok && before.Before(until) || !ok && len(b.todo.failing) >= maxWanted {
		return
	}
	b.todo.failing[server] = until
}

// rest is for how long there is no question.
func (b *book) rest() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	rest := tendEvery
	for _, until := range b.todo.failing {
		rest = min(rest, time.Until(until))
	}
	return max(rest, time.Second)
}

// anew asks all again that didn't answer, since there is another network.
func (b *book) anew() {
	b.todo.silent.anew()
	b.mu.Lock()
	for server := range b.todo.failing {
		b.todo.failing[server] = time.Time{}
	}
	b.mu.Unlock()
	b.awake()
}

// awake has the book do at once all that is due.
func (b *book) awake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.todo.awake()
}

// show is for a record of this server that it was sent.
func (b *book) show(record *wire.RelayRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.todo.shown = record
	b.todo.awake()
}

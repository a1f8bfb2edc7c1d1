package client_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/testnet"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A network is nodes that send and receive, and relays, in simulated time.
type network struct {
	*testing.T
	seed     uint64
	net      *testnet.Virtual
	began    time.Time
	length   time.Duration // of the trouble
	troubled atomic.Bool

	lossy, faulty int // percent of requests

	members   []*member
	dropboxes []*dropbox

	mu     sync.Mutex
	events []string
	sent   map[copyKey]*sent
}

func newNetwork(t *testing.T, seed uint64) *network {
	n := &network{T: t, seed: seed, net: testnet.NewVirtual(), began: time.Now(), sent: make(map[copyKey]*sent)}
	d := n.dice("network")
	n.length = time.Hour + d.upTo(7*time.Hour)
	n.lossy, n.faulty = d.IntN(15), d.IntN(15)
	for i := range 1 + d.IntN(3) {
		n.dropboxes = append(n.dropboxes, n.newDropbox(spec.ServerName(fmt.Sprintf("relay%d", i))))
	}
	for i := range 2 + d.IntN(3) {
		n.members = append(n.members, n.newMember(i))
	}
	for _, m := range n.members {
		m.meet(d)
		m.reopen(true, true)
	}
	return n
}

// log notes what happened.
func (n *network) log(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := time.Since(n.began).Round(time.Millisecond)
	n.events = append(n.events, fmt.Sprintf("%12v ", at)+fmt.Sprintf(format, args...))
}

// diary returns the last events.
func (n *network) diary() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.events[max(0, len(n.events)-150):], "\n")
}

func (n *network) queued(mail store.Store) int64 {
	usage, err := mail.Usage(background, "")
	require.NoError(n, err)
	return usage.Entries
}

// dice are where everything random comes from. They are safe for concurrent
// use.
type dice struct {
	n  *network
	mu sync.Mutex
	r  *rand.Rand
}

func (n *network) dice(name string) *dice {
	h := fnv.New64()
	_, _ = h.Write([]byte(name))
	return &dice{n: n, r: rand.New(rand.NewPCG(n.seed, h.Sum64()))}
}

func (d *dice) IntN(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

func (d *dice) chance(percent int) bool { return d.IntN(100) < percent }

// trouble is a chance that there is none of once the trouble is over.
func (d *dice) trouble(percent int) bool { return d.n.troubled.Load() && d.chance(percent) }

func (d *dice) upTo(most time.Duration) time.Duration {
	return time.Duration(d.IntN(int(most/time.Millisecond)+1)) * time.Millisecond
}

// A state is what a host is like for others.
type state int

const (
	here     state = iota
	refusing       // no connection
	hanging        // no answer
	off            // a relay: relaying is off; a node: it can't reach others either
	states
)

// A host is a server on the network. It fails now and then.
type host struct {
	n       *network
	name    spec.ServerName
	dice    *dice
	latency time.Duration
	handler http.Handler
	late    func() time.Duration // see testnet.Host
	state   atomic.Int64
}

func (n *network) newHost(name spec.ServerName, handler http.Handler) *host {
	d := n.dice(string(name))
	h := &host{n: n, name: name, dice: d, latency: d.upTo(2 * time.Second), handler: handler}
	h.set(here)
	return h
}

// set changes the host's state.
func (h *host) set(s state) {
	h.n.log("%.6s is in state %d", h.name, s)
	h.state.Store(int64(s))
	on := testnet.Host{Handler: h, Latency: h.latency, Hangs: s == hanging, Lose: h.lose, Late: h.late}
	if s == refusing {
		on.Handler = nil
	}
	h.n.net.Set(h.name, on)
}

func (h *host) is(s state) bool { return h.state.Load() == int64(s) }

func (h *host) lose() (request, answer bool) {
	return h.dice.trouble(h.n.lossy), h.dice.trouble(h.n.lossy)
}

// ServeHTTP answers for the host, unless it is in trouble.
func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case h.dice.trouble(h.n.faulty):
		(&wire.Error{Status: http.StatusInternalServerError, Code: spec.ErrorUnknown}).Write(w)
	case h.dice.trouble(h.n.faulty):
		(&wire.Error{Status: http.StatusTooManyRequests, Code: spec.ErrorLimitExceeded, RetryAfter: h.dice.upTo(10 * time.Minute)}).Write(w)
	default:
		h.handler.ServeHTTP(w, r)
	}
}

// late is how long after it was sent a request may reach a relay.
const late = 5 * time.Minute

// A dropbox is a relay. It may be closed and opened again.
type dropbox struct {
	*host
	config relay.Config
	ledger *ledger
	server atomic.Pointer[relay.Server]
}

func (n *network) newDropbox(name spec.ServerName) *dropbox {
	d := &dropbox{ledger: &ledger{Store: memory.New(memory.Options{}), stored: make(map[mailKey]bool)}}
	d.host = n.newHost(name, http.HandlerFunc(d.serve))
	d.late = func() time.Duration { return d.dice.upTo(late) }
	d.config = relay.Config{ServerName: name, Store: d.ledger, Logger: slog.New(slog.DiscardHandler), OriginShare: 1}
	if d.dice.chance(25) {
		d.config.MaxEntries = 4
	}
	if d.dice.chance(25) {
		d.config.MaxBodyBytes = 2000
	}
	d.open()
	return d
}

func (d *dropbox) open() {
	server, err := relay.New(d.config)
	require.NoError(d.n, err)
	d.server.Store(server)
}

func (d *dropbox) serve(w http.ResponseWriter, r *http.Request) {
	server := d.server.Load()
	server.SetEnabled(!d.is(off))
	server.ServeHTTP(w, r)
}

// reopen is a restart, now and then.
func (d *dropbox) reopen(dice *dice) {
	if dice.chance(50) {
		return
	}
	d.n.log("%s closes", d.name)
	if err := d.server.Load().Close(); err != nil {
		d.n.Errorf("closing %s: %v", d.name, err)
	}
	d.n.pause(dice, time.Minute)
	d.open()
}

// A ledger is a relay's store that knows what it has ever stored.
type ledger struct {
	store.Store

	mu     sync.Mutex
	stored map[mailKey]bool
}

type mailKey struct {
	destination, origin spec.ServerName
	id                  gomatrixserverlib.TransactionID
}

// Put implements store.Store.
func (l *ledger) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	stored, err := l.Store.Put(ctx, mail, limits)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stored[mailKey{mail.Destination, mail.Origin, mail.TransactionID}] = true
	}
	return stored, err
}

func (l *ledger) has(k mailKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stored[k]
}

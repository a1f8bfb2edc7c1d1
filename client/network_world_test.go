package client_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A network is nodes that send and receive, and relays, in simulated time.
type network struct {
	*testing.T
	seed     uint64
	net      *relaytest.Network
	began    time.Time
	length   time.Duration // of the trouble
	troubled atomic.Bool

	lossy, faulty int  // percent of requests
	passing       bool // some relays pass on their mail

	members   []*member
	dropboxes []*dropbox

	mu     sync.Mutex
	events []string
	sent   map[copyKey]*sent
}

func newNetwork(t *testing.T, seed uint64) *network {
	n := &network{T: t, seed: seed, net: relaytest.NewNetwork(), began: time.Now(), sent: make(map[copyKey]*sent)}
	d := n.dice("network")
	n.length = time.Hour + d.upTo(7*time.Hour)
	n.lossy, n.faulty, n.passing = d.IntN(15), d.IntN(15), d.chance(40)
	for i := range 1 + d.IntN(3) {
		n.dropboxes = append(n.dropboxes, n.newDropbox(i))
	}
	for i := range 2 + d.IntN(3) {
		n.members = append(n.members, n.newMember(i))
	}
	for _, m := range n.members {
		m.meet(d)
		m.reopen(true, true)
	}
	for _, box := range n.dropboxes {
		box.meet(d)
	}
	return n
}

// log notes an event.
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

func (n *network) queued(mail store.Store, half spec.ServerName) int64 {
	usage, err := mail.Usage(background, half)
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

// A state is how a host appears to others.
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
	late    func() time.Duration // see relaytest.Host
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
	on := relaytest.Host{Handler: h, Latency: h.latency, Hangs: s == hanging, Lose: h.lose, Late: h.late}
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

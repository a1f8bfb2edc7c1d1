package client_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// How many worlds TestRoads runs, and the one seed to run.
const (
	roadsRuns = "RELAY_ROADS_RUNS"
	roadsSeed = "RELAY_ROADS_SEED"
)

// TestRoads has an Outbox send to a destination that comes and goes, through
// relays that refuse, lie, answer pages of proxies, can't be reached for a while,
// lose answers, and are added later; the Outbox restarts in between. Nothing may
// be dropped that a relay could still get, and in the end each transaction that
// was taken is delivered, or at every relay that keeps its word or refused there,
// in order.
//
// RELAY_ROADS_RUNS is how many there are (default: 50). RELAY_ROADS_SEED=n runs
// that seed alone. A seed decides all but the jitter of back-offs, and which of
// two goroutines is first.
func TestRoads(t *testing.T) {
	seeds.Each(t, roadsSeed, roadsRuns, seeds.Rounds(50, 4), func(t *testing.T, seed uint64) {
		r := &roadsWorld{script: rand.New(rand.NewPCG(seed, 0)), dice: rand.New(rand.NewPCG(seed, 1)), ended: make(map[string]client.Result)}
		inOutWorld(t, r.configure, func(o *outWorld) { r.run(o) })
	})
}

type roadsWorld struct {
	*outWorld
	script *rand.Rand // for the test's own goroutine
	relays []*roadsRelay
	direct *recorder

	mu    sync.Mutex
	dice  *rand.Rand // for the others
	ended map[string]client.Result
}

// A roadsRelay is a relay with habits.
type roadsRelay struct {
	recorder
	name    spec.ServerName
	proxied bool // some don't come through a proxy until all is well
	well    atomic.Bool
}

func (r *roadsWorld) throw(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dice.IntN(n)
}

func (r *roadsWorld) configure(c *client.OutboxConfig) {
	c.KeepRelayed, c.Workers = []int{-1, 3, 10}[r.script.IntN(3)], 1+r.script.IntN(5)
	c.Notify = r.note
}

// note checks the Outbox's events at once, when they can be known.
func (r *roadsWorld) note(e client.Event) {
	id := string(e.TransactionID)
	took := 0
	for _, relay := range r.relays {
		if e.Result == client.ResultDropped && !relay.lies && !relay.dealtWith(id) {
			r.Errorf("%s is dropped, and %s doesn't have it", id, relay.name)
		}
		if relay.lies || slices.Contains(relay.has(), id) {
			took++
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended[id] != "" {
		r.Errorf("%s is %s after it was %s", id, e.Result, r.ended[id])
	}
	if e.Result == client.ResultRelayed || e.Result == client.ResultDropped {
		if e.At < 1 || e.At > took || e.Of != len(r.relays) {
			r.Errorf("%s is said to be at %d of %d, and is at %d of %d", id, e.At, e.Of, took, len(r.relays))
		}
	}
	if e.Result != client.ResultRelayed {
		r.ended[id] = e.Result
	}
}

// add makes a relay known.
func (r *roadsWorld) add() {
	relay := &roadsRelay{name: spec.ServerName(fmt.Sprint("relay", len(r.relays)))}
	kind := r.script.IntN(6)
	relay.lies, relay.proxied = kind == 0, kind == 1
	relay.answer = func(id string) *wire.Error {
		number, _ := strconv.Atoi(id)
		switch {
		case kind == 2 && number%3 == 0:
			return &wire.Error{Status: 413, Code: wire.ErrorTooLarge}
		case kind == 3:
			return wire.BadRequest(spec.ErrorBadJSON, "no")
		case relay.proxied && !relay.well.Load() && number%7 == 0:
			return &wire.Error{Status: 413}
		case !relay.well.Load() && r.throw(10) == 0:
			return &wire.Error{Status: []int{302, 400, 403, 404, 429, 500, 502, 511}[r.throw(8)]}
		}
		return nil
	}
	r.mu.Lock()
	r.relays = append(r.relays, relay)
	r.mu.Unlock()
	r.set(relay)
	require.NoError(r, r.peers.AddRelays(r.Context(), b.ServerName, relay.name))
}

// set has a relay be there or not.
func (r *roadsWorld) set(relay *roadsRelay) {
	host := relaytest.Host{Latency: time.Duration(r.script.IntN(2000)) * time.Millisecond}
	if relay.well.Load() || r.script.IntN(3) > 0 {
		host.Handler = relay
	}
	host.Hangs = !relay.well.Load() && r.script.IntN(5) == 0
	if !relay.well.Load() {
		host.Lose = func() (request, answer bool) { return r.throw(10) == 0, r.throw(10) == 0 }
	}
	r.net.Set(relay.name, host)
}

func (r *roadsWorld) run(o *outWorld) {
	r.outWorld, r.direct = o, &recorder{}
	require.NoError(o, o.peers.RemoveRelays(o.Context(), b.ServerName, r1, r2, r3))
	for range 1 + r.script.IntN(3) {
		r.add()
	}
	last := r.trouble()
	r.heal()
	r.check(last)
}

// trouble returns the number of the last transaction.
func (r *roadsWorld) trouble() (last int) {
	for range 60 {
		switch r.script.IntN(10) {
		case 0:
			require.NoError(r, r.outbox.Close())
			time.Sleep(time.Duration(r.script.IntN(120)) * time.Second)
			r.open()
		case 1:
			if len(r.relays) < 4 && r.script.IntN(3) == 0 {
				require.NoError(r, r.outbox.Close()) // so that no event is told meanwhile
				r.add()
				r.open()
			}
		case 2:
			r.net.Set(b.ServerName, r.direct.host())
			r.outbox.Seen(b.ServerName)
			time.Sleep(time.Duration(r.script.IntN(300)) * time.Millisecond)
			r.net.Set(b.ServerName, relaytest.Host{})
		case 3, 4:
			r.set(r.relays[r.script.IntN(len(r.relays))])
		default:
			for range 1 + r.script.IntN(5) {
				last++
				r.enqueue(fmt.Sprintf("%03d", last))
			}
		}
		time.Sleep(time.Duration(r.script.IntN(100)) * time.Second)
	}
	return last
}

// heal has all relays be well, and waits; the destination is still away.
func (r *roadsWorld) heal() {
	r.net.Set(b.ServerName, relaytest.Host{})
	for _, relay := range r.relays {
		relay.well.Store(true)
		r.set(relay)
	}
	r.enqueue("999") // which has the destination tried, so that it counts as offline
	time.Sleep(24 * time.Hour)
}

func (r *roadsWorld) check(last int) {
	r.mu.Lock()
	ended := maps.Clone(r.ended)
	r.mu.Unlock()
	direct := r.direct.has()
	require.True(r, slices.IsSorted(direct))
	for _, id := range append(numbers(1, last), "999") {
		if ended[id] == client.ResultDelivered || slices.Contains(direct, id) {
			require.Contains(r, direct, id)
			continue
		}
		for _, relay := range r.relays {
			// Mail that was dropped before the relay was added can't be there.
			if !relay.lies && ended[id] == "" {
				require.True(r, relay.dealtWith(id), "%s isn't at %s", id, relay.name)
			}
		}
	}
	for _, relay := range r.relays {
		if !relay.proxied {
			require.True(r, slices.IsSorted(relay.has()), "%s has %v", relay.name, relay.has())
		}
	}
}

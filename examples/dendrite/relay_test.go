package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The servers of the tests: A writes to B, and R is B's relay.
const a, b, r = "alice", "bob", "relay"

// theirs makes a server unmodified: it has the relay and the retriever of Dendrite
// v0.13.8 itself.
const theirs = "-theirs"

var variants = map[string][]string{"with the package": nil, "unmodified": {theirs}}

// TestThroughRelay has A write in a room while B is down, A stop, and B start: it has
// everything through the relay, each message once and in order. Dendrite's own queues
// send, its roomserver receives.
//
// Dendrite v0.13.8 can't do this, and so the tests don't ask for it: its retriever asks
// a relay until that is empty, and then never again before the next start; its queues
// forget a transaction when one relay has it, and see a relay that is added for a server
// they know already after the next start; and it doesn't say when an EDU can't be
// processed, nor PDUs whose processing fails after they are in its input stream.
func TestThroughRelay(t *testing.T) {
	for _, test := range []struct {
		name  string
		a, b  []string
		relay func(*world, *tap)
	}{
		{"all three have the package", nil, nil, dendriteRelay()},
		{"two unmodified servers, and the standalone relay", []string{theirs}, []string{theirs}, standaloneRelay},
		{"only B has the package", []string{theirs}, nil, standaloneRelay},
		{"only A has the package", nil, []string{theirs}, standaloneRelay},
		{"only the relay is unmodified", nil, nil, dendriteRelay(theirs)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.tap(r)
			test.relay(w, p)
			c := w.converse(test.a, test.b)
			c.serverB.stop()
			c.write("one", "two", "three")
			c.awaitTaken(p, "one", "two", "three")
			c.requireDelivery("one", "two", "three")
		})
	}
}

// TestRelayOff has the relay switched off at first. A keeps the mail until it is on.
func TestRelayOff(t *testing.T) {
	for name, args := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.tap(r)
			behind := w.behind()
			off := w.startIn(behind, r, args...)
			p.set(behind.transport())
			c := w.converse(args, nil)
			c.serverB.stop()
			c.write("one", "two")
			await(t, "the relay refuses mail", func() bool { return p.refusals() > 0 })
			require.False(t, p.has("one"))
			off.stop()
			w.startIn(behind, r, append(slices.Clone(args), "-relaying")...)
			c.awaitTaken(p, "one", "two")
			c.requireDelivery("one", "two")
		})
	}
}

// TestRelayKilled kills the relay when it has mail, and starts it again.
func TestRelayKilled(t *testing.T) {
	for name, args := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.tap(r)
			relay, address := w.startStandalone(r)
			p.set(at(address))
			c := w.converse(args, args)
			c.serverB.stop()
			c.write("one", "two")
			c.awaitTaken(p, "one", "two")
			relay.kill()
			c.write("three")
			_, address = w.startStandalone(r)
			p.set(at(address))
			c.awaitTaken(p, "three")
			c.requireDelivery("one", "two", "three")
		})
	}
}

// TestRelayChanged has an unmodified relay get the package when it has mail.
func TestRelayChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.tap(r)
	behind := w.behind()
	unmodified := w.startIn(behind, r, "-relaying", theirs)
	p.set(behind.transport())
	c := w.converse(nil, nil)
	c.serverB.stop()
	c.write("one", "two")
	c.awaitTaken(p, "one", "two")
	unmodified.stop()
	w.startIn(behind, r, "-relaying")
	c.requireDelivery("one", "two")
}

// dendriteRelay makes a Dendrite the relay.
func dendriteRelay(args ...string) func(*world, *tap) {
	return func(w *world, p *tap) {
		behind := w.behind()
		w.startIn(behind, r, append([]string{"-relaying"}, args...)...)
		p.set(behind.transport())
	}
}

// behind is a network of its own, for servers behind a tap.
func (w *world) behind() network {
	behind := network(filepath.Join(w.dir, "behind"))
	require.NoError(w.t, os.Mkdir(string(behind), 0o700))
	return behind
}

// standaloneRelay makes the program the relay.
func standaloneRelay(w *world, p *tap) {
	_, address := w.startStandalone(r)
	p.set(at(address))
}

// A conversation is a room with users of A and B, which both know B's relays.
type conversation struct {
	w                *world
	argsB            []string
	serverA, serverB *running
	alice, bob       *user
	room             string
}

// converse starts A and B, with B's relay or relays.
func (w *world) converse(argsA, argsB []string, relays ...string) *conversation {
	known := []string{"-relays", b + "=" + r}
	for _, relay := range relays {
		known = append(known, "-relays", b+"="+relay)
	}
	c := &conversation{w: w, argsB: slices.Concat(argsB, known)}
	c.serverA, c.serverB = w.start(a, slices.Concat(argsA, known)...), w.start(b, c.argsB...)
	c.alice, c.bob = w.register(a, "alice"), w.register(b, "bob")
	c.room = c.alice.createRoom()
	c.bob.join(c.room, nameOf(a))
	c.write("hello")
	c.bob.awaitAll([]string{"hello"}, []string{"hello"})
	return c
}

// write has A write each word in the room and to B's device.
func (c *conversation) write(words ...string) {
	c.w.t.Helper()
	for _, word := range words {
		c.alice.say(c.room, word)
		c.alice.tell(c.bob, word)
	}
}

// awaitTaken waits until a relay has taken the words, from the room and to the device.
func (c *conversation) awaitTaken(p *tap, words ...string) {
	c.w.t.Helper()
	for _, word := range words {
		await(c.w.t, fmt.Sprintf("the relay has %q", word), func() bool { return p.has(word) })
	}
}

// requireDelivery stops A, starts B, and requires that it gets just these words.
func (c *conversation) requireDelivery(words ...string) {
	c.w.t.Helper()
	c.serverA.stop()
	c.serverB = c.w.start(b, c.argsB...)
	all := slices.Concat([]string{"hello"}, words)
	c.bob.awaitAll(all, all)
}

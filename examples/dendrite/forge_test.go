package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A forgery changes an answer to relay_txn, as a relay may.
type forgery func(c *conversation, answer map[string]any)

var forgeries = map[string]struct {
	forge forgery
	argsB []string
}{
	"changes words":                         {changeWords, nil},
	"changes words and leaves proofs out":   {leaveProofsOut, []string{"-require-proof"}},
	"makes up a message":                    {makeUp, []string{"-require-proof"}},
	"makes up a message, with an old proof": {makeUpWithProof, nil},
}

// TestRelayForges has one of B's two relays forge the mail that it hands out. B believes
// none of it, and has everything through the other.
func TestRelayForges(t *testing.T) {
	const forger = "forger"
	for name, test := range forgeries {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			honest, forging := w.tap(r), w.tap(forger)
			standaloneRelay(w, honest)
			_, address := w.startStandalone(forger)
			forging.set(at(address))
			c := w.converse(nil, test.argsB, forger)
			c.serverB.stop()
			c.write("one", "two")
			c.awaitTaken(honest, "one", "two")
			c.awaitTaken(forging, "one", "two")
			forged := forging.forgeWith(c, test.forge)
			// B fetches mail from one relay alone: so it finds the forger first.
			there := honest.set(nil)
			c.serverA.stop()
			c.serverB = w.start(b, c.argsB...)
			await(t, "something is forged", func() bool { return forged.Load() > 0 })
			honest.set(there)
			all := []string{"hello", "one", "two"}
			c.bob.awaitAll(all, all)
			c.bob.sync()
			require.NotContains(t, strings.Join(slices.Concat(c.bob.messages, c.bob.toDevice), " "), "evil")
		})
	}
}

// TestForgeryBelieved is a forgery that Dendrite v0.13.8 itself can't tell: it believes a
// relay about messages to devices. Events have signatures of their own.
func TestForgeryBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.tap(r)
	standaloneRelay(w, p)
	c := w.converse(nil, []string{theirs})
	c.serverB.stop()
	c.write("one")
	c.awaitTaken(p, "one")
	p.forgeWith(c, changeWords)
	c.serverA.stop()
	w.start(b, c.argsB...)
	await(t, "the forged message arrives", func() bool {
		c.bob.sync()
		return slices.Contains(c.bob.toDevice, "evil one")
	})
	require.NotContains(t, c.bob.messages, "evil one")
}

// forgeWith has the relay behind a tap forge, and counts how often.
func (p *tap) forgeWith(c *conversation, forge forgery) (forged *atomic.Int64) {
	forged = new(atomic.Int64)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forge = func(body []byte) []byte {
		var answer map[string]any
		decoder := json.NewDecoder(strings.NewReader(string(body)))
		decoder.UseNumber()
		if decoder.Decode(&answer) != nil {
			return body
		}
		forge(c, answer)
		changed, err := json.Marshal(answer)
		if err != nil {
			return body
		}
		if strings.Contains(string(changed), "evil") {
			forged.Add(1)
		}
		return changed
	}
	return forged
}

// itemsOf are the transactions in an answer, with the fields beside them.
func itemsOf(answer map[string]any) []map[string]any {
	items := []map[string]any{answer}
	more, _ := answer["more"].([]any)
	for _, item := range more {
		items = append(items, item.(map[string]any))
	}
	return items
}

func changeWords(_ *conversation, answer map[string]any) {
	for _, item := range itemsOf(answer) {
		text, err := json.Marshal(item["transaction"])
		if err != nil {
			return
		}
		var changed any
		if json.Unmarshal([]byte(strings.ReplaceAll(string(text), `"body":"`, `"body":"evil `)), &changed) == nil {
			item["transaction"] = changed
		}
	}
}

func leaveProofsOut(c *conversation, answer map[string]any) {
	changeWords(c, answer)
	for _, item := range itemsOf(answer) {
		delete(item, "relay_proof")
	}
}

// makeUp puts a message in place of a transaction, without a proof.
func makeUp(c *conversation, answer map[string]any) {
	makeUpWithProof(c, answer)
	for _, item := range itemsOf(answer) {
		delete(item, "relay_proof")
	}
}

// makeUpWithProof puts a message in place of a transaction, with the proof of that.
func makeUpWithProof(c *conversation, answer map[string]any) {
	for _, item := range itemsOf(answer) {
		transaction, _ := item["transaction"].(map[string]any)
		if pdus, _ := transaction["pdus"].([]any); len(pdus) == 0 && transaction["edus"] == nil {
			continue // there is none
		}
		made := maps.Clone(transaction)
		made["pdus"] = []any{}
		made["edus"] = []any{map[string]any{"edu_type": "m.direct_to_device", "content": map[string]any{
			"message_id": fmt.Sprint("evil", item["entry_id"]), "sender": c.alice.id, "type": "org.example.word",
			"messages": map[string]any{c.bob.id: map[string]any{"PHONE": map[string]any{"body": "evil"}}},
		}}}
		item["transaction"] = made
	}
}

package client_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// TestClocks: whatever the clock of B says while it announces, and those of A and the relay
// while they get its record, no record is refused and mail arrives, then and after all
// clocks were set right and B has announced another relay.
func TestClocks(t *testing.T) {
	clocks := map[string]time.Time{
		"not set":        {}, // simulated time begins in 2000
		"40 days behind": recordTime.Add(-40 * 24 * time.Hour),
		"right":          recordTime,
		"40 days ahead":  recordTime.Add(40 * 24 * time.Hour),
		"2100":           time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	for bobs, bobsTime := range clocks {
		for others, othersTime := range clocks {
			if testing.Short() && bobs != "right" && others != "right" {
				continue
			}
			t.Run(fmt.Sprintf("B %s, others %s", bobs, others), func(t *testing.T) {
				var link string
				var alices, bobs []store.Note
				inRecordWorldAt(t, bobsTime, func(w *recordWorld) {
					w.relays(r1)
					bob := w.node(b)
					bob.announce(r1)
					link, bobs = bob.Link(), bob.notes()
				})
				inRecordWorldAt(t, othersTime, func(w *recordWorld) {
					w.relays(r1)
					alice, bob := w.node(a), w.restored(b, bobs)
					w.pass(time.Minute)
					alice.add(link)
					alice.write(bob, "1")
					w.pass(time.Hour)
					bob.requireGot("1")
					link, alices, bobs = bob.Link(), alice.notes(), bob.notes()
				})
				inRecordWorldAt(t, recordTime, func(w *recordWorld) {
					w.relays(r1, r2)
					alice, bob := w.restored(a, alices), w.restored(b, bobs)
					w.pass(time.Minute)
					alice.write(bob, "2")
					w.pass(time.Hour)
					bob.requireGot("2")
					before := linked(w, bob.Link())
					bob.announce(r2)
					after := linked(w, bob.Link())
					require.True(t, before.Precedes(&after))
					require.True(t, after.IsFresh(time.Now()))
					w.pass(time.Minute)
					alice.write(bob, "3")
					w.pass(26 * time.Hour)
					bob.requireGot("3")
				})
			})
		}
	}
}

// notes are all that a node keeps.
func (n *recordNode) notes() []store.Note {
	n.world.Helper()
	notes, err := n.mail.Notes(n.world.Context(), "", "", 1000)
	require.NoError(n.world, err)
	return notes
}

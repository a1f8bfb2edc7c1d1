// Package storetest checks that a store.Store keeps its contract, and measures
// how fast it is. It is for authors of a store: one call of Run from a test
// is the whole suite.
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(tb testing.TB) storetest.Place {
//			dir := tb.TempDir()
//			return storetest.Place{
//				Open: func(tb testing.TB, retention time.Duration) store.Store {
//					s, err := sqlite.Open(dir, sqlite.Options{Retention: retention})
//					if err != nil {
//						tb.Fatal(err)
//					}
//					return s
//				},
//			}
//		})
//	}
//
// # Time
//
// Nothing here measures how long a store takes. Things that have to happen soon, such
// as the end of a Wait or the sweep of expired mail, have a minute, so a
// store that sweeps on a timer should be opened with a short one. Under
// go test -short the suite does less of everything.
//
// # Random tests
//
// The tests in model run with new seeds each time. A failing one logs its seed
// and its last steps; RELAY_STORETEST_SEED=<seed> runs that one alone:
//
//	RELAY_STORETEST_SEED=42 go test -run 'TestStore/model' .
package storetest

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// A Place is somewhere that a store can keep mail: a file, a database, a
// stream.
type Place struct {
	// Open opens the place with a retention for recognising copies; one below
	// zero is none. If anything goes wrong, it ends the test with tb.Fatal. After
	// Close it is called again, with the same retention, and must find the same
	// mail, unless the place is Volatile. The suite closes each store that it opens.
	Open func(tb testing.TB, retention time.Duration) store.Store

	// OpenFew is Open with a retention longer than any test and limits of how many
	// transactions are remembered that aren't kept any more: of all origins, and of each.
	// The store must be a store.Measured then. Without it the tests of that are skipped.
	OpenFew func(tb testing.TB, ofAll, ofOrigin int64) store.Store

	// Volatile says that nothing survives Close.
	Volatile bool

	// Shared says that the place may be open several times at once, as several
	// processes would have it.
	Shared bool

	// OneHalf says that the store doesn't keep private mailboxes apart yet. The
	// tests of that are skipped then.
	OneHalf bool

	// Copy copies the place, as a backup does, and returns a function that puts
	// that copy in its stead. Both are called while the place isn't open, the
	// function any number of times. Without it, or in a Volatile place, the tests
	// of a place that is set back to an earlier copy are skipped.
	Copy func(tb testing.TB) (setBack func(tb testing.TB))

	// Damage has ways to make the entry of destination with this ID unreadable, as a
	// bad disk would, by the part that they damage: one for each part of an entry that
	// can be damaged alone. They are called while the place isn't open. Without any, or in a
	// Volatile place, the tests of damage are skipped.
	Damage map[string]func(tb testing.TB, destination spec.ServerName, id int64)

	// Abilities are those that the store must have beside store.Store, so that none
	// gets lost, in a wrapper for instance.
	Abilities Abilities

	// Stall keeps all mail from being committed, as a disk or a server does
	// that hangs, until resume is called. It is called while the place is open.
	// Without it the tests of calls whose context ends meanwhile are skipped.
	Stall func(tb testing.TB) (resume func())

	// Crash ends the place as a power cut does, while stores are open in it, and
	// makes it ready to be opened again. Mail that wasn't durable is lost. The answers
	// that open stores give from then on don't count; the suite closes them before it
	// opens the place again. Without it, or in a Volatile place, the tests of crashes are
	// skipped.
	Crash func(tb testing.TB)
}

// Abilities are the interfaces beside store.Store.
type Abilities struct{ Notes, Batches, Timed, Failing, Measured, Committing, Managed bool }

// Run checks a store against its contract. It calls newPlace for a fresh and
// empty place for each test; tb.Cleanup can take it away again.
func Run(t *testing.T, newPlace func(tb testing.TB) Place) {
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			if g.needs != nil && !g.needs(newPlace(t)) {
				t.Skip("not in this place")
			}
			for _, test := range g.tests {
				t.Run(test.name, func(t *testing.T) { test.run(newRig(t, newPlace, g)) })
			}
		})
	}
}

// A group is the tests of one topic, which live in one file.
type group struct {
	name      string
	tests     []test
	retention time.Duration    // default: longer than any test
	few       few              // default: as many copies as the store remembers
	needs     func(Place) bool // default: any place will do
}

type test struct {
	name string
	run  func(*rig)
}

var groups = []group{
	{name: "put", tests: putTests},
	{name: "copies", tests: copyTests},
	{name: "forgetting", tests: forgettingTests, retention: shortRetention},
	{name: "forgetting at once", tests: forgettingTests, retention: noRetention},
	{name: "few copies", tests: fewTests, needs: Place.opensFew, few: few{ofAll: 12, ofOrigin: 4}},
	{name: "few copies, random steps", tests: fewModelTests, needs: Place.opensFew, few: few{ofAll: plenty, ofOrigin: 4}},
	{name: "limits", tests: limitTests},
	{name: "next", tests: nextTests},
	{name: "ack", tests: ackTests},
	{name: "expiry", tests: expiryTests},
	{name: "destinations", tests: destinationTests},
	{name: "usage", tests: usageTests},
	{name: "private", tests: privateTests, needs: Place.hasHalves},
	{name: "wait", tests: waitTests},
	{name: "context", tests: contextTests},
	{name: "close", tests: closeTests},
	{name: "concurrency", tests: concurrencyTests},
	{name: "model", tests: modelTests},
	{name: "reopen", tests: reopenTests, needs: Place.reopens},
	{name: "reopen, forgetting", tests: reopenForgettingTests, needs: Place.reopens, retention: shortRetention},
	{name: "set back", tests: setBackTests, needs: Place.setsBack},
	{name: "damage", tests: damageTests, needs: Place.damages},
	{name: "stall", tests: stallTests, needs: Place.stalls},
	{name: "crash", tests: crashTests, needs: Place.crashes},
	{name: "abilities", tests: abilityTests},
	{name: "notes", tests: notesTests},
	{name: "batches", tests: batchTests},
	{name: "timed", tests: timedTests},
	{name: "managed", tests: managedTests},
	{name: "managed, damage", tests: managedDamageTests, needs: Place.damages},
	{name: "managed, private", tests: managedPrivateTests, needs: Place.hasHalves},
	{name: "committing", tests: committingTests, needs: Place.commits},
	{name: "shared", tests: sharedTests, needs: Place.shares},
}

func (p Place) opensFew() bool  { return p.OpenFew != nil }
func (p Place) reopens() bool   { return !p.Volatile }
func (p Place) damages() bool   { return !p.Volatile && len(p.Damage) > 0 }
func (p Place) commits() bool   { return p.Abilities.Committing }
func (p Place) stalls() bool    { return p.Stall != nil }
func (p Place) crashes() bool   { return !p.Volatile && p.Crash != nil }
func (p Place) shares() bool    { return p.Shared }
func (p Place) hasHalves() bool { return !p.OneHalf }
func (p Place) setsBack() bool  { return !p.Volatile && p.Copy != nil }

// kinds are the names of the parts that can be damaged, at least one.
func (p Place) kinds() []string { return append(slices.Sorted(maps.Keys(p.Damage)), "") }

// allows reports whether tests may use a mailbox of that name.
func (p Place) allows(name spec.ServerName) bool { return !p.OneHalf || !store.IsPrivate(name) }

package storetest

import (
	"cmp"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// A broken is a store with one fault, and the test that must fail for it.
type broken struct {
	fault  string
	caught string
	wrap   func(store.Store) store.Store
}

// The suite is worth the faults that it catches.
var brokenStores = []broken{
	{"acks IDs of others", "ack/another_destination's_ID", func(s store.Store) store.Store { return acksAny{s} }},
	{"acks made-up IDs", "ack/a_made-up_ID", func(s store.Store) store.Store { return acksAny{s} }},
	{"acks at random", "model/random_steps", func(s store.Store) store.Store { return acksAny{s} }},
	{"acks one entry only", "ack/removes_up_to_the_ID", func(s store.Store) store.Store { return acksOne{s} }},
	{"misses a Put", "wait/a_Put_at_each_look_at_the_context", func(s store.Store) store.Store { return missesPuts{s} }},
	{"misses a Put now and then", "wait/no_Put_is_missed", func(s store.Store) store.Store { return missesPuts{s} }},
	{"never waits", "wait/blocks_while_there_is_no_mail", func(s store.Store) store.Store { return neverWaits{s} }},
	{"sleeps through Close", "wait/ended_by_Close", func(s store.Store) store.Store { return sleepsThroughClose{s} }},
	{"overshoots a mailbox", "limits/Entries:_Puts_at_once_fill_it_exactly", func(s store.Store) store.Store { return overshoots{s} }},
	{"overshoots the store", "limits/StoreBytes:_Puts_at_once_fill_it_exactly", func(s store.Store) store.Store { return overshoots{s} }},
	{"overshoots as two", "shared/Entries:_Puts_at_once_fill_it_exactly", func(s store.Store) store.Store { return overshoots{s} }},
	{"stores copies", "copies/a_copy_stores_nothing", newForgetful},
	{"stores copies after Ack", "copies/a_copy_after_Ack", newForgetful},
	{"stores copies at once", "copies/copies_at_once", newForgetful},
	{"stores copies after reopen", "reopen/copies", newForgetful},
	{"stores copies at random", "few_copies,_random_steps/copies", newForgetful},
	{"remembers without end", "few_copies/an_origin_loses_its_own_oldest", func(s store.Store) store.Store { return &endless{handle: s.(*handle)} }},
	{"mixes up keys", "copies/the_parts_of_the_key_are_kept_apart", func(s store.Store) store.Store { return mixesUpKeys{s} }},
	{"shows entries late", "concurrency/a_reader_that_follows_sees_everything_once", func(s store.Store) store.Store { return &late{Store: s} }},
	{"loses late entries", "concurrency/a_reader_that_acknowledges_sees_everything_once", func(s store.Store) store.Store { return &late{Store: s} }},
	{"loses at random", "model/random_steps_at_once", func(s store.Store) store.Store { return &late{Store: s} }},
	{"ignores maxBytes", "next/maxBytes", func(s store.Store) store.Store { return ignoresMaxBytes{s} }},
	{"has no ErrEmpty", "next/an_empty_mailbox", func(s store.Store) store.Store { return noErrEmpty{s} }},
	{"never expires", "expiry/expires_soon", func(s store.Store) store.Store { return neverExpires{s} }},
	{"counts its halves together", "private/usage", func(s store.Store) store.Store { return halfBlind{s} }},
	{"lists its halves together", "private/destinations", func(s store.Store) store.Store { return halfBlind{s} }},
	{"limits its halves together", "private/limits", func(s store.Store) store.Store { return halfBlind{s} }},
	{"gives the whole lifetime again", "expiry/the_rest_of_a_lifetime", func(s store.Store) store.Store { return refreshes{s} }},
	{"sorts by a locale", "destinations/pages", func(s store.Store) store.Store { return sortsByLocale{s} }},
	{"shows damaged entries", "damage/the_first_entry", func(s store.Store) store.Store { return showsDamage{s.(*handle)} }},
	{"puts batches backwards", "batches/in_order,_and_whole", func(s store.Store) store.Store { return putsBackwards{s} }},
	{"gives IDs that don't ascend", "next/order_and_after", func(s store.Store) store.Store { return descends{s} }},
	{"hides an ability", "abilities/as_expected", func(s store.Store) store.Store { return struct{ store.Store }{s} }},
	{"ignores the context of a Put", "stall/a_Put_ends_with_its_context", func(s store.Store) store.Store { return ignoresContext{s} }},
	{"never syncs", "crash/when_nothing_is_under_way", func(s store.Store) store.Store { return neverSyncs{s, s.(*handle).shelf} }},
	{"syncs later", "crash/under_load", func(s store.Store) store.Store { return neverSyncs{s, s.(*handle).shelf} }},
	{"takes mail for nobody", "put/names_that_no_store_keeps", func(s store.Store) store.Store { return takesAny{s} }},
	{"removes all up to an entry", "managed/remove_from_anywhere", func(s store.Store) store.Store { return removesUpTo{s.(*handle)} }},
	{"removes entries of others", "managed/remove_nothing_of_others", func(s store.Store) store.Store { return removesAny{s.(*handle)} }},
	{"counts senders of both halves", "managed,_private/halves_apart", func(s store.Store) store.Store { return mixesSenders{s.(*handle)} }},
	{"has nothing wrong", "", func(s store.Store) store.Store { return s }},
}

const brokenVariable = "RELAY_STORETEST_BROKEN"

// Run fails the test that it's called from, so each broken store is tested by
// a process of its own: TestBrokenStore in this same binary.
func TestBrokenStores(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	for _, b := range brokenStores {
		t.Run(b.fault, func(t *testing.T) {
			pattern := "^TestBrokenStore$"
			for level := range strings.SplitSeq(cmp.Or(b.caught, "copies"), "/") {
				pattern += "/^" + regexp.QuoteMeta(level) + "$"
			}
			cmd := exec.Command(self, "-test.run="+pattern, "-test.v", "-test.short", "-test.timeout=5m")
			if b.caught != "" { // some faults are races, which not every run meets: until one does
				cmd.Args = append(cmd.Args, "-test.count=1000", "-test.failfast")
			}
			cmd.Env = append(os.Environ(), brokenVariable+"="+b.fault)
			out, err := cmd.CombinedOutput()
			if b.caught == "" {
				require.NoError(t, err, string(out))
				return
			}
			require.Error(t, err, "the suite has nothing against a store that %s", b.fault)
			require.Contains(t, string(out), "--- FAIL: TestBrokenStore/"+b.caught+" (")
		})
	}
}

func TestBrokenStore(t *testing.T) {
	fault := os.Getenv(brokenVariable)
	i := slices.IndexFunc(brokenStores, func(b broken) bool { return b.fault == fault })
	if i < 0 {
		t.Skip("is run by TestBrokenStores")
	}
	if brokenStores[i].caught != "" {
		patience = time.Second // to fail soon
	}
	Run(t, func(tb testing.TB) Place {
		place := newShelf(tb)
		open := place.Open
		place.Open = func(tb testing.TB, retention time.Duration) store.Store {
			return brokenStores[i].wrap(open(tb, retention))
		}
		openFew := place.OpenFew
		place.OpenFew = func(tb testing.TB, ofAll, ofOrigin int64) store.Store {
			return brokenStores[i].wrap(openFew(tb, ofAll, ofOrigin))
		}
		return place
	})
}

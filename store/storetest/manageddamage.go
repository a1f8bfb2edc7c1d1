package storetest

import (
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var managedDamageTests = []test{{"remove an entry that can't be read", testRemoveDamaged}}

// An operator may remove entries that no receiver has come across yet: a damaged one among
// them is removed or set aside, and keeps none of the others.
func testRemoveDamaged(r *rig) {
	r.managed()
	for kind := range r.place.Damage {
		r.fresh(kind, func(r *rig) {
			r.kind = kind
			mails := letters(here, 4)
			r.keep(mails...)
			e := r.holds(here, mails...)
			r.damage(here, e[1].ID)
			n := r.remove(here, e[0].ID, e[1].ID, e[2].ID)
			require.Contains(r, []int{2, 3}, n)
			r.holds(here, mails[3])
			usage := r.usage(here)
			usage.SetAside = 0
			require.Equal(r, store.Usage{Entries: 1, Bytes: mails[3].Size()}, usage)
			r.keep(letter(here, 5))
			r.reopen()
			r.holds(here, mails[3], letter(here, 5))
		})
	}
}

package storetest

import (
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

var abilityTests = []test{{"as expected", testAbilities}}

func testAbilities(r *rig) {
	_, notes := r.Store.(store.Notes)
	_, batches := r.Store.(store.Batches)
	_, timed := r.Store.(store.Timed)
	_, failing := r.Store.(store.Failing)
	_, measured := r.Store.(store.Measured)
	_, managed := r.Store.(store.Managed)
	_, committing := r.Store.(store.Committing)
	want := r.place.Abilities
	for _, ability := range []struct {
		name      string
		has, must bool
	}{
		{"Notes", notes, want.Notes},
		{"Batches", batches, want.Batches},
		{"Timed", timed, want.Timed},
		{"Failing", failing, want.Failing},
		{"Measured", measured, want.Measured},
		{"Managed", managed, want.Managed},
		{"Committing", committing, want.Committing},
	} {
		require.True(r, ability.has || !ability.must, "the store must be a store.%s, and isn't", ability.name)
	}
}

package storetest

import (
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"
)

var destinationTests = []test{
	{"none", testNoDestinations},
	{"pages", testDestinationPages},
	{"after any name", testDestinationsAfter},
	{"gone after Ack", testDestinationGone},
}

// destinations reads all destinations in pages of a size.
func (r *rig) destinations(limit int) []spec.ServerName {
	r.Helper()
	return r.destinationsFrom("", limit)
}

// destinationsFrom reads those of a half, of which after is the start.
func (r *rig) destinationsFrom(after spec.ServerName, limit int) []spec.ServerName {
	r.Helper()
	var all []spec.ServerName
	for {
		page, err := r.Destinations(r.Context(), after, limit)
		require.NoError(r, err)
		require.LessOrEqual(r, len(page), limit)
		if len(page) == 0 {
			return all
		}
		for _, name := range page {
			require.Greater(r, name, after, "destinations are in ascending order")
			after = name
		}
		all = append(all, page...)
	}
}

func testNoDestinations(r *rig) {
	for _, after := range []spec.ServerName{"", here} {
		page, err := r.Destinations(r.Context(), after, 10)
		require.NoError(r, err)
		require.Empty(r, page)
	}
}

func testDestinationPages(r *rig) {
	for i, name := range oddNames {
		r.keep(letter(name, i), letter(name, i+1))
	}
	sorted := slices.Sorted(slices.Values(oddNames))
	for _, limit := range []int{1, 2, 7, len(sorted) - 1, len(sorted), 1000} {
		require.Equal(r, sorted, r.destinations(limit), "in pages of %d", limit)
	}
}

func testDestinationsAfter(r *rig) {
	for _, name := range []spec.ServerName{"b", "d", "d.f", "h"} {
		r.keep(letter(name, 1))
	}
	for _, c := range []struct {
		after spec.ServerName
		want  []spec.ServerName
	}{
		{"", []spec.ServerName{"b", "d"}},
		{"a", []spec.ServerName{"b", "d"}},
		{"B", []spec.ServerName{"b", "d"}},
		{"b", []spec.ServerName{"d", "d.f"}},
		{"c", []spec.ServerName{"d", "d.f"}},
		{"d", []spec.ServerName{"d.f", "h"}},
		{"d-", []spec.ServerName{"d.f", "h"}},
		{"d.f.", []spec.ServerName{"h"}},
		{"da", []spec.ServerName{"h"}},
		{"h", nil},
		{"z", nil},
	} {
		page, err := r.Destinations(r.Context(), c.after, 2)
		require.NoError(r, err)
		require.ElementsMatch(r, c.want, page, "after %q", c.after)
		require.True(r, slices.IsSorted(page))
	}
}

func testDestinationGone(r *rig) {
	names := []spec.ServerName{"a", "b", "c"}
	for _, name := range names {
		r.keep(letter(name, 1), letter(name, 2))
	}
	entries := r.all("b")
	r.ack("b", entries[0].ID)
	require.Equal(r, names, r.destinations(2), "there is still mail for each")
	r.ack("b", entries[1].ID)
	r.eventually("a destination without mail isn't listed", func() bool {
		return slices.Equal(r.destinations(2), []spec.ServerName{"a", "c"})
	})
	r.keep(letter("b", 3))
	require.Equal(r, names, r.destinations(2))
}

// Package seeds is for random tests: each prints its seed, and an environment
// variable runs it again.
package seeds

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Base is the environment variable that all new seeds are made from, if it is set.
// CI makes it from the files that it tests, so that the same files get the same seeds.
const Base = "RELAY_SEED"

// New returns the n-th new seed of a test: a random one, or one that is made from Base.
func New(t testing.TB, n int) uint64 {
	base := os.Getenv(Base)
	if base == "" {
		return rand.Uint64()
	}
	sum := fnv.New64a()
	_, _ = fmt.Fprintf(sum, "%s %s %d", base, t.Name(), n)
	return sum.Sum64()
}

// Of returns the seed of a test, which it logs: the one that the environment
// variable gives, or else a new one.
func Of(t testing.TB, variable string) uint64 {
	t.Helper()
	seed, given := Given(t, variable)
	if !given {
		seed = New(t, 0)
	}
	t.Logf("%s=%d", variable, seed)
	return seed
}

// Given returns the seed that the environment variable gives, if it is set.
func Given(t testing.TB, variable string) (seed uint64, given bool) {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return 0, false
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return seed, true
}

// Count returns how often something is done in a test: as often as the
// environment variable says, if it is set.
func Count(t testing.TB, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// Rounds is how often something is done in a test: whole, or less with -short, as
// the race detector is run, which makes it ten times slower.
func Rounds(whole, short int) int {
	if testing.Short() {
		return short
	}
	return whole
}

// Each runs a test with several seeds, each a subtest whose name has the seed.
// If the variable of the seed is set, that is the only one, and it is run once
// unless the other variable says how often.
func Each(t *testing.T, variable, runsVariable string, runs int, run func(t *testing.T, seed uint64)) {
	t.Helper()
	first, given := Given(t, variable)
	if given {
		runs = 1
	} else {
		first = New(t, 0) >> 1 // room to count on
	}
	for i := range uint64(Count(t, runsVariable, runs)) {
		seed := first + i
		if given {
			seed = first
		}
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { run(t, seed) })
	}
}

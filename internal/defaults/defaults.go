// Package defaults fills in the options that were left out. All options have one rule:
// zero is the default, and a negative number is none, or no limit.
package defaults

import "time"

// Forever is as good as no limit, with room to add to it.
const Forever = 100 * 365 * 24 * time.Hour

// Set gives an option its default if it is zero.
func Set[T comparable](option *T, otherwise T) {
	var zero T
	if *option == zero {
		*option = otherwise
	}
}

// Bounds gives an option its default if it is zero, and another value if it is
// negative.
func Bounds[N int | int64 | float64 | time.Duration](option *N, otherwise, negative N) {
	switch {
	case *option == 0:
		*option = otherwise
	case *option < 0:
		*option = negative
	}
}

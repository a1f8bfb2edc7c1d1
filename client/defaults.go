package client

import (
	"math"
	"time"
)

// In every Config of this package zero means the default. A negative number means
// that there is none of it, or no limit: each field says which.

// forever is as good as no limit, with room to add to it.
const forever = 100 * 365 * 24 * time.Hour

// noLimit is as good as no limit for numbers of things.
const noLimit = math.MaxInt32

// setBounds puts a default in place of zero, and something else in place of a
// negative number.
func setBounds[N int | int64 | time.Duration](value *N, otherwise, negative N) {
	switch {
	case *value == 0:
		*value = otherwise
	case *value < 0:
		*value = negative
	}
}

package client

import "math"

// In every Config of this package zero means the default. A negative number means
// that there is none of it, or no limit: each field says which.

// noLimit is as good as no limit for numbers of things.
const noLimit = math.MaxInt32

package activity

import (
	"hash/maphash"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// maxAsked is how many servers one generation knows, of which there are two: they take
// 5 MB or so together.
const maxAsked = 100_000

// asked knows when servers have last asked for their mail. When the newer generation is
// full, the older is forgotten: then nothing is known of times before the newer began.
// It keeps hashes in place of names, which are many and may be long.
type asked struct {
	seed         maphash.Seed
	newer, older map[uint64]uint32 // seconds since the Log began
	began        time.Duration     // the newer did
	since        time.Duration     // the older did
}

func (a *asked) begin(now time.Duration) {
	a.seed = maphash.MakeSeed()
	a.newer, a.began, a.since = make(map[uint64]uint32), now, now
}

func (a *asked) note(now time.Duration, server spec.ServerName) {
	key := maphash.String(a.seed, string(server))
	if _, known := a.newer[key]; !known && len(a.newer) >= maxAsked {
		a.older, a.newer = a.newer, make(map[uint64]uint32)
		a.since, a.began = a.began, now
	}
	a.newer[key] = uint32(now / time.Second)
}

// last returns when a server last asked, or since when it hasn't.
func (a *asked) last(server spec.ServerName) (at time.Duration, known bool) {
	key := maphash.String(a.seed, string(server))
	for _, generation := range []map[uint64]uint32{a.newer, a.older} {
		if seconds, ok := generation[key]; ok {
			return time.Duration(seconds) * time.Second, true
		}
	}
	return a.since, false
}

package activity

import "time"

// A ring has the counts of the newest parts of time.
type ring struct {
	part   time.Duration
	counts []Counts
	newest int64 // the number of a part since the beginning
}

func newRing(parts int, part time.Duration) ring {
	return ring{part: part, counts: make([]Counts, parts)}
}

// at returns the counts of a time that is no earlier than that of the last call.
func (r *ring) at(now time.Duration) *Counts {
	size := int64(len(r.counts))
	this := int64(now / r.part)
	for r.newest = max(r.newest, this-size); r.newest < this; {
		r.newest++
		r.counts[r.newest%size] = Counts{}
	}
	return &r.counts[r.newest%size]
}

// series returns all of them, the oldest first.
func (r *ring) series(now time.Duration) Series {
	r.at(now)
	s := Series{PartMS: r.part.Milliseconds()}
	first := (r.newest + 1) % int64(len(r.counts))
	s.Parts = append(append(s.Parts, r.counts[first:]...), r.counts[:first]...)
	return s
}

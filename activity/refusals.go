package activity

import (
	"cmp"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/frequent"
)

const (
	// refusalsTime is how long refusals are counted before they make room for newer ones
	// and are kept for as long again.
	refusalsTime = time.Hour

	// maxKinds bounds the kinds of refusals that are told apart, counted the names that
	// are counted for each, and shown those that are in a Report.
	maxKinds = 64
	counted  = 16
	shown    = 3

	otherKinds = "other"
)

// Refused is a request that wasn't answered with 200. Endpoint and Reason are of a few;
// the others may be empty, and anybody may have written the names.
type Refused struct {
	Endpoint, Reason    string
	Address             string // it came from
	Origin, Destination spec.ServerName
}

// A Refusal counts refusals of one kind. The names are the most frequent, and their
// counts may be a little too large.
type Refusal struct {
	Endpoint string `json:"endpoint"` // as in the metrics
	Reason   string `json:"reason"`   // likewise
	Times    int64  `json:"times"`

	Addresses    []Count `json:"addresses"`
	Origins      []Count `json:"origins"`
	Destinations []Count `json:"destinations"`
}

// A Count is a name and how often there was a refusal with it.
type Count = frequent.Count

type kind struct{ endpoint, reason string }

// A tally counts refusals of one kind.
type tally struct {
	times                            int64
	addresses, origins, destinations frequent.Top
}

func newTally() *tally {
	return &tally{addresses: frequent.New(counted), origins: frequent.New(counted), destinations: frequent.New(counted)}
}

func (t *tally) join(other *tally) {
	t.times += other.times
	t.addresses.Join(&other.addresses)
	t.origins.Join(&other.origins)
	t.destinations.Join(&other.destinations)
}

// refusals are counted in two generations, of which the older is forgotten when the
// newer is old.
type refusals struct {
	newer, older map[kind]*tally
	since, until time.Duration // of both together, and when the newer is old
}

func (r *refusals) begin(now time.Duration) {
	r.newer, r.older = make(map[kind]*tally), nil
	r.since, r.until = now, now+refusalsTime
}

// turn lets the older be forgotten if it is time.
func (r *refusals) turn(now time.Duration) {
	switch {
	case now < r.until:
	case now < r.until+refusalsTime:
		r.newer, r.older = make(map[kind]*tally), r.newer
		r.since, r.until = r.until-refusalsTime, r.until+refusalsTime
	default: // there was none for long
		r.begin(now)
		r.since = now - refusalsTime
	}
}

func (r *refusals) add(now time.Duration, refused Refused) {
	r.turn(now)
	k := kind{refused.Endpoint, refused.Reason}
	if r.newer[k] == nil && len(r.newer) >= maxKinds {
		k = kind{otherKinds, otherKinds}
	}
	t := r.newer[k]
	if t == nil {
		t = newTally()
		r.newer[k] = t
	}
	t.times++
	t.addresses.Add(refused.Address)
	t.origins.Add(string(refused.Origin))
	t.destinations.Add(string(refused.Destination))
}

// list returns all, the most frequent first, and since when they were counted.
func (r *refusals) list(now time.Duration) (since time.Duration, list []Refusal) {
	r.turn(now)
	all := make(map[kind]*tally)
	for _, generation := range []map[kind]*tally{r.newer, r.older} {
		for k, t := range generation {
			if all[k] == nil {
				all[k] = newTally()
			}
			all[k].join(t)
		}
	}
	list = make([]Refusal, 0, len(all))
	for k, t := range all {
		list = append(list, Refusal{k.endpoint, k.reason, t.times, t.addresses.List(shown), t.origins.List(shown), t.destinations.List(shown)})
	}
	slices.SortFunc(list, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(b.Times, a.Times), cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Reason, b.Reason))
	})
	return r.since, list
}

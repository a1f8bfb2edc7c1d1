package policy

import (
	"math"
	"sync"
	"time"

	"github.com/matrixrelay/relay/internal/defaults"
)

// tiny is a rate of nothing that still counts.
const tiny = 1e-9

// perTransaction is how many bytes a stored transaction counts for besides its own.
const perTransaction = 1000

// A party has the rest of the shares of one address or name.
type party struct {
	requests, bytes, stored bucket

	mu             sync.Mutex
	underWay, most int
}

// newParty gives a party that many times the shares.
func newParty(s Shares, times int) *party {
	p := &party{requests: newBucket(s.Requests, times), bytes: newBucket(s.Bytes, times), stored: newBucket(s.Stored, times)}
	p.most = math.MaxInt
	if s.UnderWay > 0 {
		p.most = min(s.UnderWay, math.MaxInt/times) * times
	}
	return p
}

func (s Shares) withDefaults(otherwise Shares) Shares {
	defaults.Set(&s.Requests, otherwise.Requests)
	defaults.Set(&s.Bytes, otherwise.Bytes)
	defaults.Set(&s.Stored, otherwise.Stored)
	defaults.Set(&s.UnderWay, otherwise.UnderWay)
	return s
}

// enter counts a transaction in that is on its way, unless there are too many.
func (p *party) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.underWay >= p.most {
		return false
	}
	p.underWay++
	return true
}

func (p *party) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.underWay--
}

// use counts the bytes that a request has used.
func (p *party) use(now time.Time, used Used) {
	p.bytes.take(now, used.Received+used.Sent)
	if used.Stored > 0 {
		p.stored.take(now, used.Stored+perTransaction)
	}
}

// A bucket is a token bucket that may go into debt: the cost of a request is known
// when it is over. The zero value is without a limit.
type bucket struct{ tokens *tokens }

type tokens struct {
	perSecond, burst float64

	mu   sync.Mutex
	left float64 // at that time, negative if it is in debt
	at   time.Time
}

func newBucket(r Rate, times int) bucket {
	if r.PerSecond < 0 {
		return bucket{}
	}
	burst := float64(max(r.Burst, 1)) * float64(times)
	return bucket{&tokens{perSecond: max(r.PerSecond, tiny) * float64(times), burst: burst, left: burst, at: time.Now()}}
}

// wait is how long it takes until there is something in the bucket, 0 if there is.
func (b bucket) wait(now time.Time) time.Duration {
	if b.tokens == nil {
		return 0
	}
	lacking := 1 - b.tokens.change(now, 0)
	if lacking <= 0 {
		return 0
	}
	seconds := min(lacking/b.tokens.perSecond, (24 * time.Hour).Seconds())
	return max(time.Duration(seconds*float64(time.Second)), 1)
}

// take takes out that much, also if there is less.
func (b bucket) take(now time.Time, n int64) {
	if b.tokens != nil {
		b.tokens.change(now, n)
	}
}

// change fills the bucket up to now, takes out some, and returns how much is left.
func (t *tokens) change(now time.Time, n int64) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch passed := now.Sub(t.at); {
	case passed > 0:
		t.left = min(t.burst, t.left+passed.Seconds()*t.perSecond)
		t.at = now
	case passed < -time.Minute: // no two requests: a clock past 2157, which package time has to believe, was set back
		t.at = now
	}
	t.left -= float64(n)
	return t.left
}

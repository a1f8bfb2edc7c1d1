package client

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/matrixrelay/relay/internal/defaults"
)

// Defaults of Backoff.
const (
	DefaultFirstBackoff = time.Second
	DefaultMostBackoff  = 15 * time.Minute
)

// A Backoff is how long to wait between attempts that fail: First after the
// first, twice as long after each further one, at most Most, each shortened at
// random by up to a half so that not all come back together. Zero fields mean the
// defaults. A negative First: there is no wait. A negative Most: no limit.
type Backoff struct {
	First, Most time.Duration
}

func (b Backoff) withDefaults() Backoff {
	defaults.Set(&b.First, DefaultFirstBackoff)
	defaults.Bounds(&b.Most, DefaultMostBackoff, defaults.Forever)
	return b
}

// paced is for those that try again by themselves: even with no wait there is one,
// or they would never rest.
func (b Backoff) paced() Backoff {
	if b.First < 0 {
		return Backoff{First: DefaultFirstBackoff, Most: DefaultFirstBackoff}
	}
	return b
}

// after returns how long to wait after that many failures in a row (at least
// 1), and at least as long as the other side has asked for.
func (b Backoff) after(failures int, asked time.Duration) time.Duration {
	if b.First < 0 {
		return asked
	}
	wait := b.Most
	if shift := failures - 1; shift < 32 && b.First < b.Most>>shift {
		wait = b.First << shift
	}
	wait -= time.Duration(rand.Int64N(int64(wait)/2 + 1))
	return max(wait, asked)
}

// maxBackoffs bounds how many keys are remembered as failing.
const maxBackoffs = 64 << 10

// backoffs remembers the keys that aren't to be asked for now, such as servers. A
// key costs memory only while it fails; when there are too many, any of them is
// forgotten.
type backoffs[K comparable] struct {
	backoff Backoff

	mu   sync.Mutex
	keys map[K]*failure
}

type failure struct {
	failures     int
	until, asked time.Time // asked: as the other side wants it
}

func newBackoffs[K comparable](b Backoff) *backoffs[K] {
	return &backoffs[K]{backoff: b.withDefaults(), keys: make(map[K]*failure)}
}

// wait returns how long key isn't to be asked.
func (b *backoffs[K]) wait(key K) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.keys[key]; f != nil {
		return max(0, time.Until(f.until))
	}
	return 0
}

func (b *backoffs[K]) failed(key K, asked time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.keys[key]
	if f == nil {
		makeRoom(b.keys, maxBackoffs)
		f = &failure{}
		b.keys[key] = f
	}
	f.failures++
	now := time.Now()
	f.until, f.asked = now.Add(b.backoff.after(f.failures, asked)), now.Add(asked)
}

// anew forgets all failures, but not the time that the other side asked for.
func (b *backoffs[K]) anew() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, f := range b.keys {
		f.failures, f.until = 0, f.asked
		if time.Until(f.until) <= 0 {
			delete(b.keys, key)
		}
	}
}

func (b *backoffs[K]) succeeded(key K) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.keys, key)
}

// makeRoom makes room for one more among most, by forgetting any of them.
func makeRoom[K comparable, V any](m map[K]V, most int) {
	for key := range m {
		if len(m) < most {
			return
		}
		delete(m, key)
	}
}

// Package activity counts the work of a relay in the last hour and day, for its
// operator. All of it is in memory, of a bounded size, and begins anew with the process.
//
// relay.Server keeps a Log, and package admin shows it.
package activity

import (
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// The times that are shown, and into how many parts they are divided.
const (
	hourParts, hourPart = 60, time.Minute
	dayParts, dayPart   = 96, 15 * time.Minute
)

// Options of a Log. The zero value will do.
type Options struct {
	// Waiting returns how many requests wait for mail, and MaxWaiting is how many may.
	// Nil: none wait.
	Waiting    func() int
	MaxWaiting int
}

// A Log counts the work of a relay. Make one with New. All methods are safe for concurrent
// use, and quick.
type Log struct {
	options Options

	mu       sync.Mutex
	began    time.Time // has the monotonic clock, by which all times here are
	hour     ring
	day      ring
	refusals refusals
	asked    asked
}

// New makes a Log.
func New(options Options) *Log {
	l := &Log{options: options, began: time.Now(), hour: newRing(hourParts, hourPart), day: newRing(dayParts, dayPart)}
	l.refusals.begin(0)
	l.asked.begin(0)
	return l
}

// count changes the counts of this moment.
func (l *Log) count(change func(*Counts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.change(time.Since(l.began), change)
}

func (l *Log) change(now time.Duration, change func(*Counts)) {
	change(l.hour.at(now))
	change(l.day.at(now))
}

// Stored counts a transaction of so many bytes that was taken in, and isn't a copy.
func (l *Log) Stored(bytes int64) {
	l.count(func(c *Counts) { c.Stored, c.StoredBytes = c.Stored+1, c.StoredBytes+bytes })
}

// Acknowledged counts transactions that their destination has acknowledged.
func (l *Log) Acknowledged(n int) {
	l.count(func(c *Counts) { c.Acknowledged += int64(n) })
}

// Committed counts a commit of the store that took so long.
func (l *Log) Committed(took time.Duration) {
	us := took.Microseconds()
	l.count(func(c *Counts) {
		c.Commits, c.CommitUS, c.LongestCommitUS = c.Commits+1, c.CommitUS+us, max(c.LongestCommitUS, us)
	})
}

// Refused counts a request that wasn't answered with 200.
func (l *Log) Refused(r Refused) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.began)
	l.change(now, func(c *Counts) { c.Refused++ })
	l.refusals.add(now, r)
}

// Asked notes that a server asks for its mail.
func (l *Log) Asked(server spec.ServerName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked.note(time.Since(l.began), server)
}

// LastAsked returns when a server last asked for its mail, to the second. If known is
// false it hasn't since that time, or never.
func (l *Log) LastAsked(server spec.ServerName) (at time.Time, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	since, known := l.asked.last(server)
	return l.timeOf(since), known
}

// timeOf is a time by the machine's clock as it is now.
func (l *Log) timeOf(since time.Duration) time.Time {
	now := time.Now()
	return now.Add(since - now.Sub(l.began)).UTC().Truncate(time.Second)
}

// Report returns the counts as they are at this moment.
func (l *Log) Report() *Report {
	r := &Report{MaxWaiting: l.options.MaxWaiting}
	if l.options.Waiting != nil {
		r.Waiting = l.options.Waiting()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.began)
	r.Hour, r.Day = l.hour.series(now), l.day.series(now)
	since, list := l.refusals.list(now)
	r.RefusalsSince, r.Refusals = l.timeOf(since), list
	return r
}

// A Report is the recent work of a relay.
type Report struct {
	// Hour and Day are the counts of the last hour and day, as far as the process runs.
	Hour Series `json:"hour"`
	Day  Series `json:"day"`

	// Refusals are the requests that were refused since a time that is one or two hours
	// ago, or the start of the process: the most frequent first.
	RefusalsSince time.Time `json:"refusals_since"`
	Refusals      []Refusal `json:"refusals"`

	// Waiting is how many requests wait for mail, and MaxWaiting how many may.
	Waiting    int `json:"waiting"`
	MaxWaiting int `json:"max_waiting"`
}

// A Series has counts of equal times, the oldest first. The last is of the time that is
// under way.
type Series struct {
	PartMS int64    `json:"part_ms"` // how long each is
	Parts  []Counts `json:"parts"`
}

// Counts are of one time. Commits are those of the store, if it tells of them.
type Counts struct {
	Stored       int64 `json:"stored"` // transactions
	StoredBytes  int64 `json:"stored_bytes"`
	Acknowledged int64 `json:"acknowledged"` // transactions
	Refused      int64 `json:"refused"`      // requests

	Commits         int64 `json:"commits"`
	CommitUS        int64 `json:"commit_us"`         // of all together, in microseconds
	LongestCommitUS int64 `json:"longest_commit_us"` // in microseconds
}

// Sum is of all parts together.
func (s *Series) Sum() (sum Counts) {
	for _, c := range s.Parts {
		sum.Stored += c.Stored
		sum.StoredBytes += c.StoredBytes
		sum.Acknowledged += c.Acknowledged
		sum.Refused += c.Refused
		sum.Commits += c.Commits
		sum.CommitUS += c.CommitUS
		sum.LongestCommitUS = max(sum.LongestCommitUS, c.LongestCommitUS)
	}
	return sum
}

// MeanCommitUS is how long a commit took on average, in microseconds.
func (c *Counts) MeanCommitUS() int64 { return c.CommitUS / max(c.Commits, 1) }

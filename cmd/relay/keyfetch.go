package main

import (
	"container/list"
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/table"
)

const (
	// askAgain is how long an answer of a server holds, and that there was
	// nothing else in it. That it couldn't be asked holds for failAgain only:
	// it may be about to start, or the network may be back in a moment.
	askAgain  = 30 * time.Second
	failAgain = 2 * time.Second

	// maxAnswers are remembered; the least used are forgotten for others.
	maxAnswers = 2_000

	// maxFetching servers are asked at a time. One that hasn't answered for
	// fetchGrace gives its place up for another, so that servers that hang
	// hold up nobody else.
	maxFetching  = 512
	fetchGrace   = time.Second
	fetchTimeout = 10 * time.Second
)

// A sparingFetcher is a gomatrixserverlib.KeyFetcher that asks no server twice
// in a short time, and not too many at once, so that nobody can have this
// relay pester others with requests in their name.
type sparingFetcher struct {
	next gomatrixserverlib.KeyFetcher
	end  context.CancelFunc // of all fetches

	mu       sync.Mutex
	ctx      context.Context
	answers  *table.Table[spec.ServerName, *keyAnswer]
	fetching list.List // of *keyAnswer, the oldest first
	running  sync.WaitGroup
}

// A keyAnswer is a server's answer, once done is closed.
type keyAnswer struct {
	done chan struct{}
	keys map[keyID]foundAt
	err  error

	// Below the fetcher's lock.
	since   time.Time
	cancel  context.CancelFunc
	place   *list.Element // nil once the server isn't asked any more
	expires time.Time     // zero until it has answered
}

func newSparingFetcher(next gomatrixserverlib.KeyFetcher) *sparingFetcher {
	ctx, end := context.WithCancel(context.Background())
	return &sparingFetcher{next: next, ctx: ctx, end: end, answers: table.New[spec.ServerName, *keyAnswer](maxAnswers)}
}

// close ends the fetches under way and waits for them. There are no others
// after it.
func (f *sparingFetcher) close() {
	f.mu.Lock()
	f.end()
	f.mu.Unlock()
	f.running.Wait()
}

// FetcherName implements gomatrixserverlib.KeyFetcher.
func (f *sparingFetcher) FetcherName() string { return f.next.FetcherName() }

// FetchKeys implements gomatrixserverlib.KeyFetcher.
func (f *sparingFetcher) FetchKeys(ctx context.Context, wanted map[keyID]spec.Timestamp) (map[keyID]foundAt, error) {
	found := make(map[keyID]foundAt)
	for id, at := range wanted {
		answer, err := f.answer(id, at)
		if err != nil {
			return nil, err
		}
		select {
		case <-answer.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if answer.err != nil {
			return nil, answer.err
		}
		maps.Copy(found, answer.keys)
	}
	return found, nil
}

var errTooManyFetches = errors.New("too many servers are being asked for their keys")

// answer returns the answer of a server, which may still be on its way.
func (f *sparingFetcher) answer(id keyID, at spec.Timestamp) (*keyAnswer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if a, ok := f.answers.Get(id.ServerName); ok && (a.expires.IsZero() || a.expires.After(now)) {
		return a, nil
	}
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	if !f.makeRoom(now) {
		return nil, errTooManyFetches
	}
	// Others wait for it too, so it doesn't end with the request that it is
	// begun for.
	ctx, cancel := context.WithTimeout(f.ctx, fetchTimeout)
	a := &keyAnswer{done: make(chan struct{}), since: now, cancel: cancel}
	a.place = f.fetching.PushBack(a)
	f.answers.Set(id.ServerName, a)
	f.running.Go(func() { f.fetch(ctx, a, map[keyID]spec.Timestamp{id: at}) })
	return a, nil
}

func (f *sparingFetcher) fetch(ctx context.Context, a *keyAnswer, wanted map[keyID]spec.Timestamp) {
	defer a.cancel()
	a.keys, a.err = f.next.FetchKeys(ctx, wanted)
	close(a.done)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leave(a)
	a.expires = time.Now().Add(askAgain)
	if len(a.keys) == 0 { // a DirectKeyFetcher keeps its errors to itself
		a.expires = time.Now().Add(failAgain)
	}
}

// leave gives up the place of a server that is being asked.
func (f *sparingFetcher) leave(a *keyAnswer) {
	if a.place != nil {
		f.fetching.Remove(a.place)
		a.place = nil
	}
}

// makeRoom reports whether another server may be asked.
func (f *sparingFetcher) makeRoom(now time.Time) bool {
	if f.fetching.Len() >= maxFetching {
		oldest := f.fetching.Front().Value.(*keyAnswer)
		if now.Sub(oldest.since) < fetchGrace {
			return false
		}
		oldest.cancel()
		f.leave(oldest)
	}
	return true
}

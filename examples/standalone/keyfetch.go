package main

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

const (
	// askAgain is how long what a server answered holds, that it didn't
	// answer too.
	askAgain    = 30 * time.Second
	maxAnswers  = 1_000
	maxFetching = 64
)

// A sparingFetcher is a gomatrixserverlib.KeyFetcher that asks no server twice
// in a short time, and not too many at once, so that nobody can have this
// relay pester others with requests in their name.
type sparingFetcher struct {
	next gomatrixserverlib.KeyFetcher

	mu       sync.Mutex
	fetching int
	answers  map[spec.ServerName]*keyAnswer
}

// A keyAnswer is what a server answered, once done is closed.
type keyAnswer struct {
	done    chan struct{}
	expires time.Time
	keys    map[keyID]foundAt
	err     error
}

func newSparingFetcher(next gomatrixserverlib.KeyFetcher) *sparingFetcher {
	return &sparingFetcher{next: next, answers: make(map[spec.ServerName]*keyAnswer)}
}

// FetcherName implements gomatrixserverlib.KeyFetcher.
func (f *sparingFetcher) FetcherName() string { return f.next.FetcherName() }

// FetchKeys implements gomatrixserverlib.KeyFetcher.
func (f *sparingFetcher) FetchKeys(ctx context.Context, wanted map[keyID]spec.Timestamp) (map[keyID]foundAt, error) {
	found := make(map[keyID]foundAt)
	for id, at := range wanted {
		answer, err := f.answer(ctx, id, at)
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
func (f *sparingFetcher) answer(ctx context.Context, id keyID, at spec.Timestamp) (*keyAnswer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if a := f.answers[id.ServerName]; a != nil && a.expires.After(now) {
		return a, nil
	}
	if f.fetching >= maxFetching || !f.makeRoom(now) {
		return nil, errTooManyFetches
	}
	a := &keyAnswer{done: make(chan struct{}), expires: now.Add(askAgain)}
	f.answers[id.ServerName] = a
	f.fetching++
	// Others wait for it too, so it must not end with the request that it was
	// begun for.
	go f.fetch(context.WithoutCancel(ctx), a, map[keyID]spec.Timestamp{id: at})
	return a, nil
}

func (f *sparingFetcher) fetch(ctx context.Context, a *keyAnswer, wanted map[keyID]spec.Timestamp) {
	a.keys, a.err = f.next.FetchKeys(ctx, wanted)
	close(a.done)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fetching--
}

func (f *sparingFetcher) makeRoom(now time.Time) bool {
	if len(f.answers) < maxAnswers {
		return true
	}
	for server, a := range f.answers {
		if !a.expires.After(now) {
			delete(f.answers, server)
		}
	}
	return len(f.answers) < maxAnswers
}

package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// Receipts are an http.RoundTripper that notes relays' answers to servers that leave
// transactions there.
type receipts struct {
	road http.RoundTripper

	mu      sync.Mutex
	last    map[receipt]int // status of the last answer
	changed chan struct{}   // closed when there is another
}

type receipt struct {
	relay spec.ServerName
	id    gomatrixserverlib.TransactionID
}

func newReceipts(road http.RoundTripper) *receipts {
	return &receipts{road: road, last: make(map[receipt]int), changed: make(chan struct{})}
}

// unreachable stands for the status of an answer that didn't come.
const unreachable = -1

// RoundTrip implements http.RoundTripper.
func (r *receipts) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.road.RoundTrip(request)
	uri, _ := wire.SignedURI(request)
	route, notOurs := wire.ParseURI(uri)
	if notOurs == nil && route.Endpoint == wire.SendRelay {
		status := unreachable
		if err == nil {
			status = response.StatusCode
		}
		r.note(receipt{spec.ServerName(request.URL.Host), route.TransactionID}, status)
	}
	return response, err
}

func (r *receipts) note(which receipt, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last[which] = status
	close(r.changed)
	r.changed = make(chan struct{})
}

// await waits until each of the relays has last answered with that status.
func (r *receipts) await(ctx context.Context, id gomatrixserverlib.TransactionID, status int, relays ...spec.ServerName) error {
	for {
		all, changed := r.have(id, status, relays)
		if all {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %v to answer %d to %s: %w", relays, status, id, ctx.Err())
		}
	}
}

func (r *receipts) have(id gomatrixserverlib.TransactionID, status int, relays []spec.ServerName) (all bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	other := func(relay spec.ServerName) bool { return r.last[receipt{relay, id}] != status }
	return !slices.ContainsFunc(relays, other), r.changed
}

// takers returns the relays that took a transaction.
func (r *receipts) takers(id gomatrixserverlib.TransactionID) (relays []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for which, status := range r.last {
		if which.id == id && status == http.StatusOK {
			relays = append(relays, string(which.relay))
		}
	}
	slices.Sort(relays)
	return relays
}

// takenBy returns how many transactions a relay took.
func (r *receipts) takenBy(relay spec.ServerName) (count int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for which, status := range r.last {
		if which.relay == relay && status == http.StatusOK {
			count++
		}
	}
	return count
}

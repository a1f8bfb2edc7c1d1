package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// Answers are an http.RoundTripper that notes the answers of relays to a node that leaves
// or fetches transactions there.
type answers struct {
	road http.RoundTripper

	mu      sync.Mutex
	left    map[leaving]int         // status of the last answer
	fetched map[spec.ServerName]int // status of the last answer, hasMail if there was mail in it
	changed chan struct{}           // closed when there is another
}

// A leaving is a transaction that is left at a relay.
type leaving struct {
	relay spec.ServerName
	id    gomatrixserverlib.TransactionID
}

func newAnswers(road http.RoundTripper) *answers {
	return &answers{road: road, left: make(map[leaving]int), fetched: make(map[spec.ServerName]int), changed: make(chan struct{})}
}

// unreachable stands for the status of an answer that didn't come, hasMail for that of one
// with mail in it.
const (
	unreachable = -1
	hasMail     = -2
)

// RoundTrip implements http.RoundTripper.
func (a *answers) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Del("Accept-Encoding") // so that the transport decompresses, before they are read here
	response, err := a.road.RoundTrip(request)
	uri, _ := wire.SignedURI(request)
	route, notOurs := wire.ParseURI(uri)
	if notOurs != nil {
		return response, err
	}
	status, relay := unreachable, spec.ServerName(request.URL.Host)
	if err == nil {
		status = response.StatusCode
	}
	switch route.Endpoint {
	case wire.SendRelay:
		a.note(func() { a.left[leaving{relay, route.TransactionID}] = status })
	case wire.RelayTxn:
		if status == http.StatusOK {
			if status, err = look(response, route.Query); err != nil {
				return nil, err
			}
		}
		a.note(func() { a.fetched[relay] = status })
	}
	return response, err
}

// look reads an answer to a node that fetches, which can be read again.
func look(response *http.Response, asked wire.Query) (status int, err error) {
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return 0, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	read := wire.ReadAnswer
	if asked.List {
		read = wire.ReadList
	}
	answer, err := read(body)
	if err != nil {
		return 0, err
	}
	if answer.EntriesQueued || asked.IDs != nil { // which are but some of the mail
		return hasMail, nil
	}
	return http.StatusOK, nil
}

func (a *answers) note(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

// await waits until each of the relays has last answered with that status.
func (a *answers) await(ctx context.Context, id gomatrixserverlib.TransactionID, status int, relays ...spec.ServerName) error {
	for {
		all, changed := a.have(id, status, relays)
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

func (a *answers) have(id gomatrixserverlib.TransactionID, status int, relays []spec.ServerName) (all bool, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	other := func(relay spec.ServerName) bool { return a.left[leaving{relay, id}] != status }
	return !slices.ContainsFunc(relays, other), a.changed
}

// fetchedFrom returns the last answer of each relay to a node that fetched, and a channel
// that is closed when there is another.
func (a *answers) fetchedFrom(relays ...spec.ServerName) (statuses []int, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, relay := range relays {
		statuses = append(statuses, a.fetched[relay])
	}
	return statuses, a.changed
}

// forgetFetched has no relay count as asked for mail.
func (a *answers) forgetFetched() { a.note(func() { clear(a.fetched) }) }

// takers returns the relays that took a transaction.
func (a *answers) takers(id gomatrixserverlib.TransactionID) (relays []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for which, status := range a.left {
		if which.id == id && status == http.StatusOK {
			relays = append(relays, string(which.relay))
		}
	}
	slices.Sort(relays)
	return relays
}

// takenBy returns how many transactions a relay took.
func (a *answers) takenBy(relay spec.ServerName) (count int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for which, status := range a.left {
		if which.relay == relay && status == http.StatusOK {
			count++
		}
	}
	return count
}

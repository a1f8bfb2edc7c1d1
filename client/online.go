package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/matrixrelay/relay/store"
)

// Run sends and fetches until ctx ends or the Node is closed, and returns nil
// then. It fails if it is called while it runs, and when the store has to be
// reopened (store.Failing).
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.stop, cancel)()
	if begun, err := n.begin(); !begun {
		return err
	}
	defer n.end()
	for again := false; ctx.Err() == nil; {
		period, switched := n.period(ctx)
		wait := func() {}
		if period != nil {
			wait = n.work(period, again)
			again = true
		}
		var err error
		select {
		case <-switched:
		case <-ctx.Done():
		case <-store.FailedOf(n.store):
			err = fmt.Errorf("client: node: %w", store.FailureOf(n.store))
			cancel()
		}
		wait()
		if err != nil {
			return err
		}
	}
	return nil
}

// begin counts Run in, unless the Node was closed.
func (n *Node) begin() (begun bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false, nil
	}
	if n.runs {
		return false, errors.New("client: node: Run was called twice")
	}
	n.runs = true
	n.running.Add(1)
	return true, nil
}

func (n *Node) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.runs = false
	n.running.Done()
}

// period returns a context that lasts until the Node goes offline, nil if it is
// offline, and a channel that is closed when that changes.
func (n *Node) period(ctx context.Context) (period context.Context, switched <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.online {
		period, n.endPeriod = context.WithCancel(ctx)
	}
	return period, n.switched
}

// work sends and fetches until ctx ends, for which wait waits. If it does so
// again, nothing that failed before counts.
func (n *Node) work(ctx context.Context, again bool) (wait func()) {
	if again {
		n.outbox.anew()
		n.announcer.anew()
		n.book.anew()
	}
	var all sync.WaitGroup
	all.Go(func() { n.outbox.run(ctx) })
	all.Go(func() { _ = n.receiver.Run(ctx) }) // its error is the context's
	all.Go(func() { n.policies.run(ctx) })
	all.Go(func() { n.tendRecords(ctx) })
	return all.Wait
}

// Online says that there is a network, or another one: all relays are asked at
// once, and all that waits is tried at once, also if it failed before.
func (n *Node) Online() {
	if n.setOnline(true) {
		return // Run sees to it
	}
	n.outbox.anew()
	n.receiver.Online()
	n.policies.wake()
	n.announcer.anew()
	n.book.anew()
}

// Offline says that there is no network, for a phone in a tunnel: no request
// begins until Online is called. Requests under way are ended, and don't count as
// failed. The context of handlers ends; transactions that they don't handle come
// again.
func (n *Node) Offline() { n.setOnline(false) }

// setOnline reports whether that changes anything.
func (n *Node) setOnline(online bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.online == online {
		return false
	}
	n.online = online
	n.endPeriod()
	close(n.switched)
	n.switched = make(chan struct{})
	return true
}

package relaytest

import (
	"errors"
	"sync"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// A Relay is a relay on a Network.
type Relay struct {
	*relay.Server

	// Name is its server name, Store where it keeps mail: Store.Usage says how
	// much there is for a server.
	Name  spec.ServerName
	Store store.Store

	network  *Network
	ownStore bool
	close    func() error
}

// AddRelay puts a relay on the network. Without Config.Store it keeps mail in
// memory, which ends with it; with one, a relay can be closed and added again.
// Without Config.Keys it takes signatures of all nodes: see Keys.
func (n *Network) AddRelay(config relay.Config) (*Relay, error) {
	r := &Relay{Name: config.ServerName, network: n}
	if config.Store == nil {
		config.Store, r.ownStore = memory.New(memory.Options{}), true
	}
	if config.Keys == nil {
		config.Keys = Keys()
	}
	r.Store = config.Store
	r.close = sync.OnceValue(r.end)
	var err error
	if r.Server, err = relay.New(config); err != nil {
		return nil, errors.Join(err, r.closeStore())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.relays = append(n.relays, r)
	host := n.hosts[r.Name] // its latency stays when it comes back
	host.Handler = r.Server
	n.hosts[r.Name] = host
	return r, nil
}

// Close takes the relay off the network and closes it, and its store if AddRelay
// made it. Requests that wait for mail are answered. It may be called more than
// once.
func (r *Relay) Close() error { return r.close() }

func (r *Relay) end() error {
	r.network.remove(r)
	return errors.Join(r.Server.Close(), r.closeStore())
}

func (r *Relay) closeStore() error {
	if !r.ownStore {
		return nil
	}
	return r.Store.Close()
}

// remove takes a relay off the network, unless the host of its name has another
// handler now.
func (n *Network) remove(r *Relay) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if host := n.hosts[r.Name]; host.Handler == r.Server {
		host.Handler = nil
		n.hosts[r.Name] = host
	}
}

// Package testnet is package relaytest for the tests of this repository, and
// what only they need: a network of addresses, and connections in memory.
package testnet

import (
	"encoding/json"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/relaytest"
)

// A Node is a server in a P2P network: its name is its public key in hex.
type Node = relaytest.Node

// NewNode returns the node with that seed, always the same.
func NewNode(seed string) *Node { return relaytest.NewNode(seed) }

// User is the user ID that deployed nodes make up for a server.
func User(server spec.ServerName) spec.UserID { return relaytest.User(server) }

// PDU looks like a room event of about size bytes.
func PDU(id string, origin spec.ServerName, size int) json.RawMessage {
	return relaytest.PDU(id, origin, size)
}

// A Virtual is a network in memory.
type Virtual = relaytest.Network

// A Host is a server on it.
type Host = relaytest.Host

// NewVirtual returns a network without servers.
func NewVirtual() *Virtual { return relaytest.NewNetwork() }

// A Network is one whose servers are at addresses of this machine.
type Network struct{ *relaytest.Network }

// NewNetwork returns a network of the given servers, by their host:port.
func NewNetwork(addresses map[spec.ServerName]string) *Network {
	n := &Network{relaytest.NewNetwork()}
	for server, address := range addresses {
		n.Set(server, address)
	}
	return n
}

// Set moves a server; an empty address takes it off the network.
func (n *Network) Set(server spec.ServerName, address string) {
	n.Network.Set(server, Host{Address: address})
}

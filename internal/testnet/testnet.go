// Package testnet has what tests need to speak to a relay as nodes do: nodes
// with keys, and a transport that finds servers on loopback.
package testnet

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// A Node is a server in a P2P network: its name is its public key in hex.
type Node struct {
	fclient.SigningIdentity
}

// NewNode returns the node with that seed, always the same.
func NewNode(seed string) *Node {
	key := ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%-32.32s", seed)))
	public := key.Public().(ed25519.PublicKey)
	return &Node{fclient.SigningIdentity{
		ServerName: spec.ServerName(hex.EncodeToString(public)),
		KeyID:      "ed25519:dendrite-demo-yggdrasil",
		PrivateKey: key,
	}}
}

// User is the user ID that deployed nodes make up for a server.
func User(server spec.ServerName) spec.UserID {
	return spec.NewUserIDOrPanic("@user:"+string(server), false)
}

// Federation is the node's unmodified fclient.
func (n *Node) Federation(transport http.RoundTripper) fclient.FederationClient {
	return fclient.NewFederationClient([]*fclient.SigningIdentity{&n.SigningIdentity}, fclient.WithTransport(transport))
}

// Request makes a signed request to server, as fclient signs it.
func (n *Node) Request(method string, server spec.ServerName, uri string, content any) (*http.Request, error) {
	r := fclient.NewFederationRequest(method, n.ServerName, server, uri)
	if content != nil {
		if err := r.SetContent(content); err != nil {
			return nil, err
		}
	}
	if err := r.Sign(n.ServerName, n.KeyID, n.PrivateKey); err != nil {
		return nil, err
	}
	return r.HTTPRequest()
}

// Transaction makes a transaction of the node with the given number of PDUs of
// about size bytes each.
func (n *Node) Transaction(to spec.ServerName, id string, pdus, size int) gomatrixserverlib.Transaction {
	t := gomatrixserverlib.Transaction{
		TransactionID:  gomatrixserverlib.TransactionID(id),
		Origin:         n.ServerName,
		Destination:    to,
		OriginServerTS: spec.AsTimestamp(time.Now()),
		PDUs:           []json.RawMessage{},
	}
	for i := range pdus {
		t.PDUs = append(t.PDUs, PDU(fmt.Sprintf("%s-%d", id, i), n.ServerName, size))
	}
	return t
}

// PDU looks like a room event of about size bytes.
func PDU(id string, origin spec.ServerName, size int) json.RawMessage {
	head := fmt.Sprintf(`{"auth_events":["$a","$b"],"content":{"body":"%s `, id)
	tail := fmt.Sprintf(`","msgtype":"m.text"},"depth":12,"hashes":{"sha256":"thishashcoversallfieldsincasethisisredacted"},`+
		`"origin_server_ts":1404838188000,"prev_events":["$c"],"room_id":"!r:%s","sender":"@a:%s","type":"m.room.message"}`, origin, origin)
	return json.RawMessage(head + strings.Repeat("x", max(0, size-len(head)-len(tail))) + tail)
}

// A Network is an http.RoundTripper that finds matrix:// servers at addresses
// of this machine. It is safe for concurrent use.
type Network struct {
	mu        sync.RWMutex
	addresses map[spec.ServerName]string
	transport *http.Transport
}

// NewNetwork returns a network of the given servers, by their host:port.
func NewNetwork(addresses map[spec.ServerName]string) *Network {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.MaxIdleConnsPerHost = 256
	n := &Network{addresses: maps.Clone(addresses), transport: transport}
	if n.addresses == nil {
		n.addresses = make(map[spec.ServerName]string)
	}
	return n
}

// Set moves a server; an empty address takes it off the network.
func (n *Network) Set(server spec.ServerName, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addresses[server] = address
}

// RoundTrip implements http.RoundTripper.
func (n *Network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.RLock()
	address := n.addresses[spec.ServerName(r.URL.Host)]
	n.mu.RUnlock()
	if address == "" {
		return nil, fmt.Errorf("testnet: no route to %s", r.URL.Host)
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.Host = "http", address, r.URL.Host
	return n.transport.RoundTrip(out)
}

// CloseIdleConnections closes connections that nobody uses.
func (n *Network) CloseIdleConnections() { n.transport.CloseIdleConnections() }

package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/wire"
)

// A node is a homeserver in a P2P network: its name is its public key in hex,
// so everybody can check its signatures without asking anyone.
type node struct {
	fclient.SigningIdentity

	federation fclient.FederationClient // what nodes speak to each other with
	relays     *client.Caller           // what they speak to relays with
}

func newNode(roads *network) (*node, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	n := &node{SigningIdentity: fclient.SigningIdentity{
		ServerName: spec.ServerName(hex.EncodeToString(public)),
		KeyID:      "ed25519:dropbox",
		PrivateKey: private,
	}}
	n.federation = fclient.NewFederationClient([]*fclient.SigningIdentity{&n.SigningIdentity}, fclient.WithTransport(roads))
	n.relays, err = client.New(client.Config{Identity: n.SigningIdentity, Transport: roads})
	return n, err
}

// user is somebody who has an account at the node.
func (n *node) user(name string) string { return "@" + name + ":" + string(n.ServerName) }

// askFor asks a relay for the mail of another server, which no honest node
// does, and says that it has dealt with the entries up to the given one.
func (n *node) askFor(ctx context.Context, victim spec.ServerName, relay spec.ServerName, acknowledge int64) error {
	user, err := wire.UserAt(victim)
	if err != nil {
		return err
	}
	signed := fclient.NewFederationRequest(http.MethodGet, n.ServerName, relay, wire.RelayTxnURI(user))
	if err := signed.SetContent(fclient.RelayEntry{EntryID: acknowledge}); err != nil {
		return err
	}
	if err := signed.Sign(n.ServerName, n.KeyID, n.PrivateKey); err != nil {
		return err
	}
	request, err := signed.HTTPRequest()
	if err != nil {
		return err
	}
	return n.federation.DoRequestAndParseResponse(ctx, request, new(fclient.RespGetRelayTransaction))
}

// sendDirectly is what a node tries before it thinks of a relay.
func (n *node) sendDirectly(ctx context.Context, t gomatrixserverlib.Transaction) error {
	_, err := n.federation.SendTransaction(ctx, t)
	return err
}

// A network is an http.RoundTripper that knows where servers are. In a real
// P2P network this is Pinecone's or Yggdrasil's.
type network struct {
	mu        sync.Mutex
	addresses map[string]string
}

func (n *network) place(server spec.ServerName, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.addresses == nil {
		n.addresses = make(map[string]string)
	}
	n.addresses[string(server)] = address
}

// RoundTrip implements http.RoundTripper for matrix://server/path.
func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	address, ok := n.addresses[r.URL.Host]
	n.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("no way to %s", r.URL.Host)
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.Host = "http", address, r.URL.Host
	return loopback.RoundTrip(out)
}

// loopback goes straight to this machine, whatever proxies are set.
var loopback = &http.Transport{}

// silentAddress is an address of this machine where nobody listens.
func silentAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

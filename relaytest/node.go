package relaytest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// A Node is a server with its key. Its SigningIdentity goes into client.CallerConfig.
type Node struct {
	fclient.SigningIdentity
}

// NewNode returns a server of a P2P network, whose name is its public key in
// hex. The same seed gives the same node.
func NewNode(seed string) *Node {
	key := ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%-32.32s", seed)))
	node := &Node{wire.HexIdentity(key)}
	node.KeyID = "ed25519:dendrite-demo-yggdrasil"
	return node
}

// NewNamed returns a server with an ordinary name, such as "alice.example". Its
// key comes from the name, so that Keys knows it.
func NewNamed(name spec.ServerName) *Node {
	seed := sha256.Sum256([]byte(name))
	return &Node{fclient.SigningIdentity{
		ServerName: name,
		KeyID:      "ed25519:1",
		PrivateKey: ed25519.NewKeyFromSeed(seed[:]),
	}}
}

// User is the user ID that deployed nodes make up for a server. It panics if
// that can't be a server's name.
func User(server spec.ServerName) spec.UserID {
	return spec.NewUserIDOrPanic("@user:"+string(server), false)
}

// Federation is the node's unmodified fclient, such as deployed homeservers
// use.
func (n *Node) Federation(transport http.RoundTripper) fclient.FederationClient {
	return fclient.NewFederationClient([]*fclient.SigningIdentity{&n.SigningIdentity}, fclient.WithTransport(transport))
}

// Request makes a signed request to server, as fclient signs it. The content,
// if it isn't nil, becomes canonical JSON. An http.Client whose Transport is the
// Network sends it.
func (n *Node) Request(method string, server spec.ServerName, uri string, content any) (*http.Request, error) {
	r := fclient.NewFederationRequest(method, n.ServerName, server, uri)
	if content != nil {
		if err := r.SetContent(content); err != nil {
			return nil, fmt.Errorf("relaytest: the content of a request: %w", err)
		}
	}
	if err := r.Sign(n.ServerName, n.KeyID, n.PrivateKey); err != nil {
		return nil, fmt.Errorf("relaytest: signing a request: %w", err)
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

// PDU looks like a room event of about size bytes, with the ID in its body. It
// isn't signed.
func PDU(id string, origin spec.ServerName, size int) json.RawMessage {
	head := fmt.Sprintf(`{"auth_events":["$a","$b"],"content":{"body":"%s `, id)
	tail := fmt.Sprintf(`","msgtype":"m.text"},"depth":12,"hashes":{"sha256":"thishashcoversallfieldsincasethisisredacted"},`+
		`"origin_server_ts":1404838188000,"prev_events":["$c"],"room_id":"!r:%s","sender":"@a:%s","type":"m.room.message"}`, origin, origin)
	return json.RawMessage(head + strings.Repeat("x", max(0, size-len(head)-len(tail))) + tail)
}

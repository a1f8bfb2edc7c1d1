package relaytest_test

import (
	"context"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/relaytest"
)

// Alice leaves a transaction for Bob at a relay, and Bob fetches it, both with
// the client that deployed homeservers have.
func Example() {
	ctx := context.Background()
	network := relaytest.NewNetwork()
	defer func() { check(network.Close()) }()
	_, err := network.AddRelay(relay.Config{ServerName: "relay.example"})
	check(err)
	alice, bob := relaytest.NewNode("alice"), relaytest.NewNamed("bob.example")

	sent := alice.Transaction(bob.ServerName, "1", 3, 200) // of 3 PDUs
	_, err = alice.Federation(network).P2PSendTransactionToRelay(ctx, relaytest.User(bob.ServerName), sent, "relay.example")
	check(err)

	// Your homeserver would do this, with its own client on the network.
	entry := fclient.RelayEntry{}
	answer, err := bob.Federation(network).P2PGetTransactionFromRelay(ctx, relaytest.User(bob.ServerName), entry, "relay.example")
	check(err)
	fmt.Println(len(answer.Transaction.PDUs), "PDUs from Alice:", answer.Transaction.Origin == alice.ServerName)
	// Output: 3 PDUs from Alice: true
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

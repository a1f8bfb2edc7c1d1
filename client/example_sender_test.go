package client_test

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/testnet"
)

// Alice sends to Bob while he is away, and when he is back.
func ExampleSender() {
	ctx := context.Background()
	alice, bob := testnet.NewNode("alice"), testnet.NewNode("bob")
	address, stop := exampleRelay("relay1")
	defer stop()
	network := testnet.NewNetwork(map[spec.ServerName]string{"relay1": address}) // nobody is at relay2

	peers := client.NewPeers()
	check(peers.AddRelays(ctx, bob.ServerName, "relay1", "relay2"))
	caller, err := client.New(client.Config{Identity: alice.SigningIdentity, Transport: network})
	check(err)
	sender, err := client.NewSender(client.SenderConfig{Caller: caller, Peers: peers})
	check(err)
	defer func() { _ = sender.Close() }()
	send := func(id string) {
		transaction, err := client.NewTransaction(alice.Transaction(bob.ServerName, id, 3, 200))
		check(err)
		outcome, err := sender.Send(ctx, transaction)
		check(err) // a *client.SendError says whether and when to try again
		fmt.Printf("%s: Bob has it: %t, a relay has it: %t\n", id, outcome.Delivered(), outcome.Relayed())
	}
	send("1")
	fmt.Println("Bob is offline:", peers.Offline(bob.ServerName))

	address, stopBob := exampleServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }))
	defer stopBob()
	network.Set(bob.ServerName, address)
	send("2")
	fmt.Println("Bob is offline:", peers.Offline(bob.ServerName))
	// Output:
	// 1: Bob has it: false, a relay has it: true
	// Bob is offline: true
	// 2: Bob has it: true, a relay has it: false
	// Bob is offline: false
}

package client_test

import (
	"context"
	"fmt"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
)

// Alice sends to Bob while he is away, and when he is back.
func ExampleSender() {
	ctx := context.Background()
	alice, bob := relaytest.NewNode("alice"), relaytest.NewNode("bob")
	network := relaytest.NewNetwork()
	defer func() { check(network.Close()) }()
	_, err := network.AddRelay(relay.Config{ServerName: "relay1"}) // nobody is at relay2
	check(err)

	peers := client.NewPeers()
	check(peers.AddRelays(ctx, bob.ServerName, "relay1", "relay2"))
	caller, err := client.NewCaller(client.CallerConfig{Identity: alice.SigningIdentity, Transport: network})
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

	network.AddHomeserver(bob.ServerName)
	send("2")
	fmt.Println("Bob is offline:", peers.Offline(bob.ServerName))
	// Output:
	// 1: Bob has it: false, a relay has it: true
	// Bob is offline: true
	// 2: Bob has it: true, a relay has it: false
	// Bob is offline: false
}

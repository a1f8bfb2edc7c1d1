package client_test

import (
	"context"
	"fmt"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// Alice leaves a transaction for Bob at a relay, and Bob fetches it.
func ExampleCaller_Drain() {
	ctx := context.Background()
	alice, bob := relaytest.NewNode("alice"), relaytest.NewNode("bob")
	network := relaytest.NewNetwork()
	defer func() { check(network.Close()) }()
	_, err := network.AddRelay(relay.Config{ServerName: "relay.example"})
	check(err)

	sender, err := client.NewCaller(client.CallerConfig{Identity: alice.SigningIdentity, Transport: network})
	check(err)
	transaction, err := client.NewTransaction(alice.Transaction(bob.ServerName, "1", 3, 200))
	check(err)
	fmt.Println("sent:", sender.Send(ctx, "relay.example", transaction))

	receiver, err := client.NewCaller(client.CallerConfig{Identity: bob.SigningIdentity, Transport: network})
	check(err)
	handled, err := receiver.Drain(ctx, "relay.example", func(_ context.Context, answer wire.Answer) error {
		got, err := answer.Decode()
		fmt.Println("got:", len(got.PDUs), "PDUs, from Alice:", got.Origin == alice.ServerName)
		return err
	})
	fmt.Println("handled:", handled, err)
	// Output:
	// sent: <nil>
	// got: 3 PDUs, from Alice: true
	// handled: 1 <nil>
}

// check is for examples only.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

package client_test

import (
	"context"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
)

// Bob fetches the mail that two relays hold for him, and gets it from Alice as well.
func ExampleReceiver() {
	ctx, cancel := context.WithCancel(context.Background())
	alice, bob := relaytest.NewNode("alice"), relaytest.NewNode("bob")
	network := relaytest.NewNetwork()
	defer func() { check(network.Close()) }()
	for _, name := range []spec.ServerName{"relay1", "relay2"} {
		_, err := network.AddRelay(relay.Config{ServerName: name})
		check(err)
	}

	transaction, err := client.NewTransaction(alice.Transaction(bob.ServerName, "1", 3, 200))
	check(err)
	sender, err := client.NewCaller(client.CallerConfig{Identity: alice.SigningIdentity, Transport: network})
	check(err)
	check(sender.Send(ctx, "relay1", transaction))
	check(sender.Send(ctx, "relay2", transaction))

	notes := memory.New(memory.Options{}) // sqlite.Open for one that lasts
	defer func() { _ = notes.Close() }()
	peers, err := client.OpenPeers(ctx, notes)
	check(err)
	check(peers.AddRelays(ctx, bob.ServerName, "relay1", "relay2")) // Bob's own
	history, err := client.OpenHistory(ctx, notes, 0)
	check(err)
	caller, err := client.NewCaller(client.CallerConfig{Identity: bob.SigningIdentity, Transport: network})
	check(err)
	handled := make(chan struct{}, 10)
	receiver, err := client.NewReceiver(client.ReceiverConfig{
		Caller: caller, Peers: peers, History: history,
		Handle: func(_ context.Context, got client.Received) error {
			t, err := got.Decode()
			fmt.Println("through a relay:", len(t.PDUs), "PDUs, from Alice:", got.Origin == alice.ServerName)
			handled <- struct{}{}
			return err // an error: it stays at the relay and comes again
		},
	})
	check(err)
	ended := make(chan error)
	go func() { ended <- receiver.Run(ctx) }() // and receiver.Online() whenever the network is back
	<-handled

	// In the handler of PUT /send, once the signature is checked:
	again, err := receiver.Direct(ctx, alice.ServerName, transaction.ID, transaction.Body, func(context.Context) error {
		fmt.Println("directly")
		return nil
	})
	fmt.Println("handled again:", again, err)
	cancel()
	fmt.Println(<-ended)
	// Output:
	// through a relay: 3 PDUs, from Alice: true
	// handled again: false <nil>
	// context canceled
}

package client_test

import (
	"context"
	"fmt"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
)

// Alice's homeserver hands every transaction to its outbox, and says whom it
// sees.
func ExampleOutbox() {
	ctx := context.Background()
	alice, bob := relaytest.NewNode("alice"), relaytest.NewNode("bob")
	network := relaytest.NewNetwork() // Bob is away
	defer func() { check(network.Close()) }()
	_, err := network.AddRelay(relay.Config{ServerName: "relay.example"})
	check(err)

	mail := memory.New(memory.Options{}) // sqlite.Open for one that lasts
	defer func() { _ = mail.Close() }()
	peers, err := client.OpenPeers(ctx, mail)
	check(err)
	check(peers.AddRelays(ctx, bob.ServerName, "relay.example"))
	caller, err := client.NewCaller(client.CallerConfig{Identity: alice.SigningIdentity, Transport: network})
	check(err)
	sender, err := client.NewSender(client.SenderConfig{Caller: caller, Peers: peers})
	check(err)
	defer func() { _ = sender.Close() }()
	events := make(chan client.Event, 10)
	outbox, err := client.OpenOutbox(ctx, client.OutboxConfig{Sender: sender, Store: mail, Notify: func(e client.Event) { events <- e }})
	check(err)
	defer func() { _ = outbox.Close() }()

	transaction, err := client.NewTransaction(alice.Transaction(bob.ServerName, "1", 3, 200))
	check(err)
	check(outbox.Enqueue(ctx, transaction)) // nil: it won't be lost
	fmt.Println((<-events).Result)

	network.AddHomeserver(bob.ServerName)
	outbox.Seen(bob.ServerName) // he made a request, or his presence says so
	fmt.Println((<-events).Result)
	// Output:
	// relayed
	// delivered
}

package client_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/testnet"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// Alice leaves a transaction for Bob at a relay, and Bob fetches it.
func ExampleCaller_Drain() {
	ctx := context.Background()
	alice, bob := testnet.NewNode("alice"), testnet.NewNode("bob")
	mail := memory.New(memory.Options{})
	defer func() { _ = mail.Close() }()
	server, err := relay.New(relay.Config{ServerName: "relay", Store: mail})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = server.Close() }()
	web := httptest.NewServer(server)
	defer web.Close()
	network := testnet.NewNetwork(map[spec.ServerName]string{"relay": web.Listener.Addr().String()})

	sender, err := client.New(client.Config{Identity: alice.SigningIdentity, Transport: network})
	if err != nil {
		fmt.Println(err)
		return
	}
	transaction, err := client.NewTransaction(alice.Transaction(bob.ServerName, "1", 3, 200))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("sent:", sender.Send(ctx, "relay", transaction))

	receiver, err := client.New(client.Config{Identity: bob.SigningIdentity, Transport: network})
	if err != nil {
		fmt.Println(err)
		return
	}
	handled, err := receiver.Drain(ctx, "relay", func(_ context.Context, answer wire.Answer) error {
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

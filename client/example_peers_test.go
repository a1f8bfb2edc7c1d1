package client_test

import (
	"context"
	"fmt"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store/memory"
)

// An operator says by hand which servers relay for which. It is kept in a store's notes.
func ExamplePeers() {
	ctx := context.Background()
	notes := memory.New(memory.Options{}) // or sqlite.Open
	defer func() { _ = notes.Close() }()

	peers, err := client.OpenPeers(ctx, notes)
	check(err)
	check(peers.AddRelays(ctx, "bob.example", "relay1.example", "relay2.example"))
	check(peers.RemoveRelays(ctx, "bob.example", "relay1.example"))
	check(peers.SetOffline(ctx, "bob.example", true)) // a Sender does this by itself

	again, err := client.OpenPeers(ctx, notes) // after a restart
	check(err)
	fmt.Println("relays of Bob:", again.Relays("bob.example"))
	fmt.Println("offline:", again.OfflineServers())
	// Output:
	// relays of Bob: [relay2.example]
	// offline: [bob.example]
}

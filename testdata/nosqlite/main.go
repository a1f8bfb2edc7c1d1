// Command nosqlite makes relays as a homeserver does that links no SQLite.
package main

import (
	"fmt"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store/memory"
)

func main() {
	_, err := relay.New(relay.Config{ServerName: "relay.example"})
	fmt.Println("without a store:", err)
	mail := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{ServerName: "relay.example", Store: mail})
	fmt.Println("with one:", err)
	fmt.Println("closed:", server.Close(), mail.Close())
}

package admin_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// A relay serves the interface on a Unix socket; a program of its operator finds the
// sender that fills the store, and removes its mail.
func Example() {
	ctx := context.Background()
	relays := memory.New(memory.Options{}) // the store of the relay
	for n := range 3 {
		mail := store.Mail{Origin: "fills.example", Destination: "b.example", Digest: store.Digest{byte(n)}, Body: make([]byte, 1000)}
		if _, err := relays.Put(ctx, mail, store.Limits{}); err != nil {
			log.Fatal(err)
		}
	}

	desk, err := admin.New(admin.Config{Store: relays, ServerName: "relay.example", Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "relay")
	if err != nil {
		log.Fatal(err)
	}
	socket := filepath.Join(dir, "admin.sock")
	listener, err := admin.ListenUnix(socket)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: desk.Handler()}
	go func() { _ = server.Serve(listener) }()

	client, err := admin.NewClient("unix:"+socket, "")
	if err != nil {
		log.Fatal(err)
	}
	senders, err := client.Senders(ctx, "", 1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(senders[0].Origin, "holds", senders[0].Bytes, "bytes")
	purged, err := admin.PurgeAll(ctx, client, admin.Purge{Origin: senders[0].Origin}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(purged.Entries, "entries were removed")

	for _, err := range []error{client.Close(), server.Close(), relays.Close(), os.Remove(dir)} {
		if err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// fills.example holds 3000 bytes
	// 3 entries were removed
}

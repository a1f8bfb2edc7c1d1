// Homeserver is a relay for others, and a node that sends and fetches.
package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/discovery"
	"github.com/matrixrelay/relay/store/sqlite"
)

var (
	web                         = &http.Server{Addr: ":8448"}        // yours
	transport http.RoundTripper = discovery.New(discovery.Options{}) // or that of an overlay network
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	_, key, err := ed25519.GenerateKey(nil) // yours; in P2P networks the name is the key
	check(err)
	mail, err := sqlite.Open("mail.db", sqlite.Options{}) // the mail that waits, for others and for you
	check(err)
	node, err := client.OpenNode(ctx, client.NodeConfig{
		Identity: relay.HexIdentity(key), Keys: relay.HexKeys{}, Transport: transport, Store: mail,
		Handle: func(_ context.Context, got client.Received) error { // nil: it is processed
			log.Print("through ", got.Relay, " from ", got.Origin, ": ", string(got.Body))
			return nil
		}})
	check(err)
	me := relay.HexIdentity(key).ServerName
	check(node.SetRelays(ctx, me, "relay.example.org")) // where others leave your mail
	server, err := relay.New(relay.Config{ServerName: me, Store: mail, Asked: node.Seen})
	check(err)
	server.Mount(http.DefaultServeMux)      // or your federation mux
	web.RegisterOnShutdown(server.EndWaits) // receivers that wait for mail
	go func() { log.Print(web.ListenAndServe()); stop() }()
	err = node.Run(ctx) // until the program is interrupted; node.Enqueue sends meanwhile
	check(errors.Join(err, web.Shutdown(context.Background()), server.Close(), node.Close(), mail.Close()))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

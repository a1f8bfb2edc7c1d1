// Homeserver is a relay for others, and a node that sends and fetches.
package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/discovery"
	"github.com/matrixrelay/relay/store/sqlite"
	"github.com/matrixrelay/relay/wire"
)

var (
	web                         = &http.Server{Addr: ":8448", Handler: http.DefaultServeMux} // your federation mux
	transport http.RoundTripper = discovery.New(discovery.Options{})                         // or that of an overlay network
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	public, private, err := ed25519.GenerateKey(nil) // yours; in P2P networks the name is the key
	me := fclient.SigningIdentity{ServerName: spec.ServerName(hex.EncodeToString(public)), KeyID: "ed25519:1", PrivateKey: private}
	check(err)
	mail, err := sqlite.Open("mail.db", sqlite.Options{}) // the mail that waits, for others and for you
	check(err)
	node, err := client.OpenNode(ctx, client.NodeConfig{
		Identity: me, Transport: transport, Store: mail, Keys: relay.HexKeys{},
		Handle: func(_ context.Context, got client.Received) error { // nil: it is processed
			log.Print("through ", got.Relay, " from ", got.Origin, ": ", string(got.Body))
			return nil
		},
	})
	check(err)
	check(node.SetRelays(ctx, me.ServerName, "relay.example.org")) // where others leave your mail
	server, err := relay.New(relay.Config{ServerName: me.ServerName, Store: mail, Asked: node.Seen})
	check(err)
	http.Handle("/_matrix/federation/v1/send_relay/", server)
	http.Handle("/_matrix/federation/v1/relay_txn/", server)
	http.Handle(wire.Unstable, server)
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

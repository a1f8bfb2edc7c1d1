// Standalone is a relay as a daemon, as short as one can write it; command relay is
// one to run: it has limits by address, too, and ends connections that dribble. Behind a
// proxy, set relay.Config.ClientAddress.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/store/sqlite"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9001", "the `address` to serve at")
	name := flag.String("name", "relay", "the server `name` that requests are signed for")
	db := flag.String("db", "relay.db", "the `file` for the mail")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *listen, spec.ServerName(*name), *db); err != nil {
		log.Fatal(err)
	}
}

// serve is a relay until ctx ends.
func serve(ctx context.Context, address string, name spec.ServerName, db string) (err error) {
	mail, err := sqlite.Open(db, sqlite.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mail.Close()) }()
	server, err := relay.New(relay.Config{ServerName: name, Store: mail})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }() // before the store
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	web := &http.Server{Handler: server, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, ConnContext: relay.ConnContext}
	web.RegisterOnShutdown(server.EndWaits) // requests that wait for mail
	log.Print("listening at ", listener.Addr())
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(bounded.Listen(listener, bounded.Options{})) }()
	select {
	case err = <-ended:
	case <-mail.Failed(): // a supervisor starts it again, which reopens the store
		err = mail.Failure()
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(err, web.Shutdown(drain), web.Close())
}

// Command dropbox shows in a few seconds what relays are for. It makes two
// nodes on this machine that share a room, and four relays for one of them. B
// announces its relays and gives A a link, goes away, and A writes to it. One relay is
// killed and started again, one is away for a while, one is gone for good, and one forges
// the mail that it hands out. B comes back, fetches its mail from all of them, takes only mail that is proven to be A's,
// and answers A, which then hands over directly the mail that only relays took. In the
// end each side must have everything once, in order, and unchanged.
//
//	go run ./examples/dropbox
//
// Each honest relay is a process of its own with a SQLite file, requests go over HTTP
// on 127.0.0.1, and the mail is real: events of a room, hashed and signed. The
// nodes send and fetch with package client. If anything is missing, double,
// different or forged, the command says so and fails.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"
)

// patience is far more than the whole takes.
const patience = 2 * time.Minute

func main() {
	if isRelayProcess(os.Args) {
		exitOn(relayProcessMain(os.Args, os.Stdin, os.Stdout))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	exitOn(run(ctx, os.Stdout))
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "dropbox:", err)
		os.Exit(1)
	}
}

// Command dropbox shows in a few seconds what a relay is for. It makes two
// nodes and a relay on this machine, takes one node away, lets the other leave
// its mail at the relay, kills the relay, starts it again, and brings the
// first node back, which then has to get everything once, in order, and
// unchanged.
//
//	go run ./examples/dropbox
//
// The relay is a process of its own with a SQLite file, requests go over HTTP
// on 127.0.0.1, and the mail is real: events of a room, hashed and signed.
// If anything is missing or different, the command says what and fails.
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

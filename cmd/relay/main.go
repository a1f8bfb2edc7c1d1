// Command relay is a relay for Matrix servers that can't be reached: it takes in
// mail for them and keeps it until they fetch it. It is also the tool for all that
// an operator does with one.
//
//	relay serve --listen 127.0.0.1:9001 --name relay --db relay.db
//
// is a relay for P2P networks, where a server's name is its key. With --pass-on
// it also brings mail to its destination and to other relays of that. With --help
// each subcommand explains itself.
//
// `relay serve` logs to stderr, one line when it listens. On SIGTERM or SIGINT it
// answers the requests under way, those that wait for mail at once, closes its
// database and exits with 0; a second signal ends it at once, which costs nobody any
// mail either.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program; it returns its exit status.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // so a second signal has its default effect

	// gomatrixserverlib logs every request that isn't signed rightly.
	logrus.SetOutput(io.Discard)
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(&input{ctx: ctx, from: os.Stdin})
	root.SetOut(onTerminal(stdout))
	root.SetErr(onTerminal(stderr))
	command, err := root.ExecuteContextC(ctx)
	return report(command, err)
}

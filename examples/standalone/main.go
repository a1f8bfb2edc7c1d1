// Command standalone is a relay as a daemon: it takes in mail for servers that
// can't be reached and keeps it until they fetch it.
//
//	standalone -listen 127.0.0.1:9001 -name relay -db relay.db
//
// is a relay for P2P networks, where a server's name is its key. With -pass-on
// it also brings mail to its destination and to other relays of that. With -h it
// explains all its options.
//
// It logs to stderr, one line when it listens. On SIGTERM or SIGINT it answers
// the requests under way, those that wait for mail at once, closes its database and
// exits with 0; a second signal ends it at once, which costs nobody any mail
// either.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
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
	o, err := parseOptions(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "standalone: %v\nstandalone -h explains the options\n", err)
		return 2
	}
	if o.access.invites.make != 0 {
		if err := o.access.invites.print(stdout); err != nil {
			_, _ = fmt.Fprintf(stderr, "standalone: %v\n", err)
			return 1
		}
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // so a second signal has its default effect

	// gomatrixserverlib logs every request that isn't signed rightly.
	logrus.SetOutput(io.Discard)
	log := slog.New(slog.NewTextHandler(stderr, nil))
	err = serve(ctx, o, log)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && errors.Is(err, context.Canceled): // as it was told to, while it waited for its database
		log.Info("stopped before it listened", "error", err)
		return 0
	}
	log.Error("failed", "error", err)
	return 1
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay"
)

// relayCommand is the argument that makes this program the relay process. The
// server's name and its database file follow.
const relayCommand = "relay-process"

func isRelayProcess(args []string) bool { return len(args) == 4 && args[1] == relayCommand }

// relayProcessMain is a relay. It writes its address to stdout and works until
// stdin ends, which it does when the parent closes it, and also when the
// parent dies.
func relayProcessMain(args []string, stdin io.Reader, stdout io.Writer) (err error) {
	errorsOnly := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})) // the story tells of refusals
	server, err := relay.New(relay.Config{ServerName: spec.ServerName(args[2]), DatabasePath: args[3], Logger: errorsOnly})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: server, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- web.Serve(listener) }()
	if _, err := fmt.Fprintln(stdout, listener.Addr()); err != nil {
		return errors.Join(err, web.Close())
	}
	_, _ = io.Copy(io.Discard, stdin) // however it ends, it's the end
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := web.Shutdown(ctx); err != nil {
		return errors.Join(err, web.Close())
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

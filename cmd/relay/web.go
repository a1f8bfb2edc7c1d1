package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/wire"
)

// A webServer is an http.Server and the listener that it has.
type webServer struct {
	*http.Server
	listener net.Listener
	failures *errorLog
}

func (s *webServer) address() string { return s.listener.Addr().String() }

// operatorConnections bounds those of each such server. Strangers may reach it, too, before
// they are asked for a token, and must leave the relay its files.
const operatorConnections = 256

// newOperatorServer serves something to the operator.
func newOperatorServer(listener net.Listener, handler http.Handler, log *slog.Logger) *webServer {
	failures := newErrorLog(log)
	few := bounded.Listen(listener, bounded.Options{Connections: operatorConnections, Refused: failures.refuse})
	return &webServer{listener: few, failures: failures, Server: &http.Server{
		Handler:     uncached(handler),
		ReadTimeout: headerTimeout, WriteTimeout: time.Minute, IdleTimeout: idleTimeout,
		ErrorLog: failures.logger(),
	}}
}

// uncached keeps proxies on the way from keeping any answer.
func uncached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wire.NoStore(w.Header())
		next.ServeHTTP(w, r)
	})
}

// serve answers requests until ctx ends, then those that are under way.
func (s *webServer) serve(ctx context.Context) error {
	defer s.failures.close()
	failed := make(chan error, 1)
	go func() {
		if s.TLSConfig != nil {
			failed <- s.ServeTLS(s.listener, "", "")
			return
		}
		failed <- s.Serve(s.listener)
	}()
	select {
	case err := <-failed:
		return errors.Join(err, s.Close())
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := s.Shutdown(drain); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// A request that is cut off got no answer, so its sender still has it.
	s.ErrorLog.Printf("cutting off requests that are still under way after %v", drainTimeout)
	return s.Close()
}

// webServers are all that the program serves.
type webServers struct {
	all   []*webServer
	shown []any // where they are, for the log
}

func (w *webServers) add(s *webServer, shown ...any) {
	w.all, w.shown = append(w.all, s), append(w.shown, shown...)
}

// serve serves all of them until ctx ends or one fails.
func (w *webServers) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error)
	for _, s := range w.all {
		go func() { ended <- s.serve(ctx) }()
	}
	var err error
	for range w.all {
		err = errors.Join(err, <-ended)
		cancel()
	}
	return err
}

// close closes those that were not served.
func (w *webServers) close() (err error) {
	for _, s := range w.all {
		if closeErr := s.listener.Close(); !errors.Is(closeErr, net.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// Limits of connections. None of them bounds a body that keeps moving: see
// paced.
const (
	headerTimeout = 10 * time.Second // and for the TLS handshake
	idleTimeout   = time.Minute
	maxHeader     = 16 << 10

	// drainTimeout is the time that requests under way get when the relay stops.
	drainTimeout = 15 * time.Second
)

// serve is a relay until ctx ends.
func serve(ctx context.Context, o *options, log *slog.Logger) (err error) {
	id, err := o.identify()
	if err != nil {
		return err
	}
	if o.nats.server != "" {
		server, err := startNATS(ctx, o.nats.server, log)
		if err != nil {
			return err
		}
		defer server.stop()
	}
	mail, err := o.moving.open(ctx, o.db, o.nats, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mail.Close()) }()
	ctx, unwatch := endWhenFailed(ctx, mail)
	defer func() { err = errors.Join(unwatch(), err) }()
	config, strangers := o.relayConfig(id.ServerName, mail, log), newStrangers()
	var reload func() error
	if config.Policy, reload, err = o.access.policy(id.ServerName, mail); err != nil {
		return err
	}
	defer reloadOnHangUp(reload, log)()
	network := o.network(strangers)
	if network != nil {
		defer network.CloseIdleConnections()
		keys := newKeys(network)
		defer keys.close()
		config.Keys = keys
	}
	if o.pass.isOn() {
		passer, err := startPassing(ctx, o, id, mail, newRoads(o.pass.at, network, strangers), log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, passer.close()) }()
		passer.listenTo(&config)
	}
	registry := prometheus.NewRegistry()
	if o.metrics != "" {
		config.Registerer = registry
	}
	server, err := relay.New(config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }() // before the others

	return serveWeb(ctx, o, id, server, registry, log)
}

// endWhenFailed returns a context that ends when the store has to be reopened, so
// that the program ends and its supervisor starts it anew. Unwatch returns the
// reason.
func endWhenFailed(ctx context.Context, mail store.Store) (watched context.Context, unwatch func() error) {
	failing, ok := mail.(store.Failing)
	if !ok {
		return ctx, func() error { return nil }
	}
	watched, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-failing.Failed():
			cancel()
		case <-watched.Done():
		}
	})
	return watched, func() error {
		cancel()
		watching.Wait()
		if err := failing.Failure(); err != nil {
			return fmt.Errorf("ending so that the store is reopened when the relay is started again: %w", err)
		}
		return nil
	}
}

// serveWeb has a relay answer requests until ctx ends.
func serveWeb(ctx context.Context, o *options, id fclient.SigningIdentity, server *relay.Server, registry *prometheus.Registry, log *slog.Logger) error {
	var handler http.Handler = server
	if id.PrivateKey != nil && !isKeyName(id.ServerName) {
		handler = keyPublisher{id, server}
	}
	web, err := listen(o, paced{handler, paceBytes, paceTime}, registry, log)
	if err != nil {
		return err
	}
	web.RegisterOnShutdown(server.EndWaits) // requests that wait for mail would hold it up
	listening := []any{"address", web.address(), "name", id.ServerName, "db", shownDB(o.db), "tls", web.TLSConfig != nil}
	if o.metrics == "" {
		log.Info("listening", listening...)
		return web.serve(ctx)
	}
	metrics, err := listenMetrics(o, registry, server.HealthHandler(), log)
	if err != nil {
		return errors.Join(err, web.listener.Close())
	}
	log.Info("listening", append(listening, "metrics", metrics.address())...)
	return serveBoth(ctx, web, metrics)
}

// A webServer is an http.Server and the listener that it has.
type webServer struct {
	*http.Server
	listener net.Listener
	failures *errorLog
}

func (s *webServer) address() string { return s.listener.Addr().String() }

// listen makes the server of the relay. Its connections are bounded, so that files are
// left for the store, the metrics and the operator.
func listen(o *options, handler http.Handler, registry *prometheus.Registry, log *slog.Logger) (*webServer, error) {
	tlsConfig, err := o.certificate()
	if err != nil {
		return nil, err
	}
	all, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	failures := newErrorLog(log)
	most, _ := o.connections.fit(o.maxWaiting)
	listener := bounded.Listen(all, bounded.Options{Connections: most, Proxies: o.proxies})
	registry.MustRegister(openConnections(listener))
	return &webServer{listener: listener, failures: failures, Server: &http.Server{
		Handler:           uncached(handler),
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       relay.ConnContext,
		HTTP2:             boundHTTP2(),
		ErrorLog:          failures.logger(),
	}}, nil
}

// uncached keeps proxies on the way from keeping any answer.
func uncached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wire.NoStore(w.Header())
		next.ServeHTTP(w, r)
	})
}

// listenMetrics makes the server of the pages for the operator.
func listenMetrics(o *options, registry *prometheus.Registry, health http.Handler, log *slog.Logger) (*webServer, error) {
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("/healthz", health)
	mux.Handle("/readyz", health)
	listener, err := net.Listen("tcp", o.metrics)
	if err != nil {
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	failures := newErrorLog(log)
	return &webServer{listener: listener, failures: failures, Server: &http.Server{
		Handler:     uncached(mux),
		ReadTimeout: headerTimeout, WriteTimeout: time.Minute, IdleTimeout: idleTimeout,
		ErrorLog: failures.logger(),
	}}, nil
}

// serveBoth serves the relay until ctx ends or either fails, and metrics for
// as long.
func serveBoth(ctx context.Context, web, metrics *webServer) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- metrics.serve(ctx)
		cancel()
	}()
	err := web.serve(ctx)
	cancel()
	return errors.Join(err, <-ended)
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

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
	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
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
	blocks, err := policy.NewBlocklist(ctx, mail)
	if err != nil {
		return err
	}
	var reload func() error
	if config.Policy, reload, err = o.access.policy(id.ServerName, mail, blocks); err != nil {
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

	desk := admin.Config{
		Store: mail, ServerName: id.ServerName, Version: thisBuild().Version, Blocklist: blocks, Ready: server.Health, Logger: log,
		Activity:   server.Activity(),
		MaxEntries: config.MaxStoreEntries, MaxBytes: config.MaxStoreBytes, BackupFile: backupFile(o.db),
	}
	return serveWeb(ctx, o, id, server, desk, registry, log)
}

// endWhenFailed returns a context that ends when the store has to be reopened, so
// that the program ends and its supervisor starts it anew. Unwatch returns the
// reason.
func endWhenFailed(ctx context.Context, mail store.Store) (watched context.Context, unwatch func() error) {
	watched, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-store.FailedOf(mail):
			cancel()
		case <-watched.Done():
		}
	})
	return watched, func() error {
		cancel()
		watching.Wait()
		if err := store.FailureOf(mail); err != nil {
			return fmt.Errorf("ending so that the store is reopened when the relay is started again: %w", err)
		}
		return nil
	}
}

// serveWeb has a relay answer requests until ctx ends.
func serveWeb(ctx context.Context, o *options, id fclient.SigningIdentity, server *relay.Server, desk admin.Config, registry *prometheus.Registry, log *slog.Logger) (err error) {
	systemd, err := findSupervisor(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, systemd.close()) }()
	var all webServers
	defer func() { err = errors.Join(err, all.close()) }()
	if err := o.listenAll(&all, id, server, desk, registry, log); err != nil {
		return err
	}
	log.Info("listening", append(all.shown, "name", id.ServerName, "db", shownDB(o.db), "tls", o.cert != "")...)
	systemd.ready(ctx)
	return all.serve(ctx)
}

// listenAll listens at all addresses.
func (o *options) listenAll(all *webServers, id fclient.SigningIdentity, server *relay.Server, desk admin.Config, registry *prometheus.Registry, log *slog.Logger) error {
	var handler http.Handler = server
	if id.PrivateKey != nil && !isKeyName(id.ServerName) {
		handler = withKeys(server.Counted(keyPublisher{id}), server)
	}
	web, err := listen(o, paced{handler, paceBytes, paceTime}, registry, log)
	if err != nil {
		return err
	}
	web.RegisterOnShutdown(server.EndWaits) // requests that wait for mail would hold it up
	all.add(web, "address", web.address())
	if o.metrics != "" {
		registry.MustRegister(backupTime{desk.Store})
		metrics, err := listenMetrics(o, registry, server.HealthHandler(), log)
		if err != nil {
			return err
		}
		all.add(metrics, "metrics", metrics.address())
	}
	return o.listenOperator(all, desk, log)
}

// listen makes the server of the relay. Its connections are bounded, so that files are
// left for the store, the metrics and the operator.
func listen(o *options, handler http.Handler, registry *prometheus.Registry, log *slog.Logger) (*webServer, error) {
	tlsConfig, err := o.certificate()
	if err != nil {
		return nil, err
	}
	all, given, err := inherited()
	if err == nil && !given {
		if all, err = net.Listen("tcp", o.listen); err != nil {
			err = fmt.Errorf("--listen: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	failures := newErrorLog(log)
	most, _ := o.connections.fit(o.maxWaiting)
	listener := bounded.Listen(all, bounded.Options{
		Connections: most, Unused: unusedBytes, Proxies: o.proxies, Refused: failures.refuse,
	})
	registry.MustRegister(openConnections(listener), failures.refused)
	if tlsConfig != nil {
		tlsConfig = listener.BoundHTTP2(tlsConfig)
	}
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
	return newOperatorServer(listener, mux, log), nil
}

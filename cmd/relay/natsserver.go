package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// A natsServer runs in this process, so that a relay, or a cluster of them,
// needs no other service.
type natsServer struct {
	*server.Server
	failed chan error // the error that ended it before it served, at most one
}

// startNATS runs a server with this configuration file, and returns when it
// serves: in a cluster that is when most of its servers do.
func startNATS(ctx context.Context, file string, log *slog.Logger) (*natsServer, error) {
	options, err := natsOptions(file)
	if err != nil {
		return nil, fmt.Errorf("--nats-server: %w", err)
	}
	s := &natsServer{failed: make(chan error, 1)}
	if s.Server, err = server.NewServer(options); err != nil {
		return nil, fmt.Errorf("--nats-server: %w", err)
	}
	if options.LogFile != "" || options.Syslog || options.RemoteSyslog != "" {
		// The error that ends it is only there, and ends the relay, too.
		log.Info("the NATS server keeps a log of its own", "file", options.LogFile)
		s.ConfigureLogger()
	} else {
		s.SetLoggerV2(natsLog{log, s.failed}, false, false, false)
	}
	s.Start()
	if err := s.wait(ctx, log); err != nil {
		s.stop()
		return nil, fmt.Errorf("--nats-server: %w", err)
	}
	return s, nil
}

func natsOptions(file string) (*server.Options, error) {
	options, err := server.ProcessConfigFile(file)
	if err != nil {
		return nil, err
	}
	if !options.JetStream {
		return nil, fmt.Errorf("%s doesn't enable jetstream", file)
	}
	options.NoSigs = true // they are the relay's
	// A 200 means that it's on the disk, unless the file says otherwise.
	if options.SyncInterval == 0 {
		options.SyncAlways = true
	}
	return options, nil
}

func (s *natsServer) wait(ctx context.Context, log *slog.Logger) error {
	const patience = 10 * time.Second
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	slow := time.NewTimer(patience)
	defer slow.Stop()
	for !s.serves() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.failed:
			return err
		case <-slow.C:
			log.Warn("the NATS server waits for the others of its cluster")
		case <-tick.C:
			if !s.Running() {
				return errors.New("the server has ended")
			}
		}
	}
	return nil
}

func (s *natsServer) serves() bool {
	return s.ReadyForConnections(time.Millisecond) && s.JetStreamIsCurrent()
}

// stop ends the server and waits until its files are written.
func (s *natsServer) stop() {
	s.Shutdown()
	s.WaitForShutdown()
}

// A natsLog takes the server's log.
type natsLog struct {
	*slog.Logger
	failed chan<- error
}

var _ server.Logger = natsLog{}

// Noticef implements server.Logger. There are dozens of notices at a start.
func (l natsLog) Noticef(format string, v ...any) { l.log(slog.LevelDebug, format, v) }

// Warnf implements server.Logger.
func (l natsLog) Warnf(format string, v ...any) { l.log(slog.LevelWarn, format, v) }

// Errorf implements server.Logger.
func (l natsLog) Errorf(format string, v ...any) { l.log(slog.LevelError, format, v) }

// Debugf implements server.Logger.
func (l natsLog) Debugf(format string, v ...any) { l.log(slog.LevelDebug, format, v) }

// Tracef implements server.Logger.
func (l natsLog) Tracef(format string, v ...any) { l.log(slog.LevelDebug, format, v) }

// Fatalf implements server.Logger. The server goes on after it, but is of no use.
func (l natsLog) Fatalf(format string, v ...any) {
	l.log(slog.LevelError, format, v)
	select {
	case l.failed <- fmt.Errorf(format, v...):
	default: // it has failed before
	}
}

func (l natsLog) log(level slog.Level, format string, v []any) {
	l.Log(context.Background(), level, "nats: "+fmt.Sprintf(format, v...))
}

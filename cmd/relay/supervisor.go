package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A supervisor is systemd, where that starts the program with Type=notify; else nobody
// is told anything. See sd_notify(3).
type supervisor struct {
	conn     net.Conn      // nil: nobody
	watchdog time.Duration // how often it wants to hear, 0: not at all
	log      *slog.Logger

	stop    context.CancelFunc
	pinging sync.WaitGroup
}

// findSupervisor reads the environment.
func findSupervisor(log *slog.Logger) (*supervisor, error) {
	s := &supervisor{log: log, stop: func() {}}
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return s, nil
	}
	var err error
	if s.conn, err = net.Dial("unixgram", socket); err != nil { // Go knows @ for an abstract one, too
		return nil, fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return s, nil // it watches another process
	}
	if text := os.Getenv("WATCHDOG_USEC"); text != "" {
		micros, err := strconv.ParseInt(text, 10, 64)
		if err != nil || micros <= 0 {
			return nil, errors.Join(fmt.Errorf("WATCHDOG_USEC: %q is no time", text), s.conn.Close())
		}
		s.watchdog = time.Duration(micros) * time.Microsecond
	}
	return s, nil
}

// ready says that the relay serves, and from then on that the process still runs. A
// store or a network that doesn't answer is no reason to start it again: a store that
// must be reopened ends it anyway.
func (s *supervisor) ready(ctx context.Context) {
	s.tell("READY=1")
	if s.conn == nil || s.watchdog == 0 {
		return
	}
	ctx, s.stop = context.WithCancel(ctx)
	s.pinging.Go(func() { s.ping(ctx) })
}

func (s *supervisor) ping(ctx context.Context) {
	tick := time.NewTicker(s.watchdog / 2)
	defer tick.Stop()
	for {
		s.tell("WATCHDOG=1")
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// close says that the relay stops.
func (s *supervisor) close() error {
	s.stop()
	s.pinging.Wait()
	if s.conn == nil {
		return nil
	}
	s.tell("STOPPING=1")
	return s.conn.Close()
}

func (s *supervisor) tell(state string) {
	if s.conn == nil {
		return
	}
	if _, err := s.conn.Write([]byte(state)); err != nil {
		s.log.Warn("the supervisor can't be told", "state", state, "error", err)
	}
}

// firstInherited is the number of the first file that a supervisor hands over.
const firstInherited = 3

// inherited returns the socket that a supervisor hands over to be served, as systemd does
// with socket activation, and whether there is one. See sd_listen_fds(3).
func inherited() (l net.Listener, ok bool, err error) {
	if pid := os.Getenv("LISTEN_PID"); pid == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, false, nil
	}
	count, err := strconv.Atoi(strings.TrimSpace(os.Getenv("LISTEN_FDS")))
	if err != nil || count != 1 {
		return nil, false, fmt.Errorf("LISTEN_FDS: the relay takes one socket, not %q", os.Getenv("LISTEN_FDS"))
	}
	file := os.NewFile(firstInherited, "LISTEN_FDS")
	l, err = net.FileListener(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, false, fmt.Errorf("LISTEN_FDS: %w", err)
	}
	return l, true, nil
}

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/pflag"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/discovery"
	"github.com/matrixrelay/relay/wire"
)

// toRelay has the options of commands that speak with a relay as its users do.
type toRelay struct {
	relay   string
	at      addressTable
	timeout time.Duration
}

func (r *toRelay) flags(f *pflag.FlagSet) {
	f.StringVar(&r.relay, "relay", "", "the server name of the `RELAY` (required)")
	f.Var(&r.at, "at", "it is at this address, over HTTP without TLS: `SERVER=HOST:PORT`. Otherwise it is\nlooked for as Matrix servers are")
	f.DurationVar(&r.timeout, "timeout", time.Minute, "wait this `DURATION` for an answer")
}

func (r *toRelay) check() error {
	switch {
	case r.relay == "":
		return errors.New("--relay is required")
	case r.timeout <= 0:
		return errors.New("--timeout must be more than 0")
	}
	if err := wire.CheckName(spec.ServerName(r.relay)); err != nil {
		return fmt.Errorf("--relay: %q: %w", r.relay, err)
	}
	return nil
}

// roads lead to the relay, until hangUp is called. The operator names it, so it may be
// anywhere.
func (r *toRelay) roads() (to *roads, hangUp func()) {
	network := discovery.New(discovery.Options{Private: true})
	to = newRoads(r.at, network, newStrangers())
	return to, func() {
		network.CloseIdleConnections()
		to.plain.CloseIdleConnections()
	}
}

// asNode has the options of commands that do that as a certain server.
type asNode struct {
	toRelay
	name, signingKey string
}

func (n *asNode) flags(f *pflag.FlagSet) {
	f.SortFlags = false
	n.toRelay.flags(f)
	f.StringVar(&n.signingKey, "signing-key", "", "sign with the key in this `FILE`, which relay keygen makes (required)")
	f.StringVar(&n.name, "name", "", "the `SERVERNAME` of the server that signs (default its key)")
}

// caller makes the calls of that server, until hangUp is called.
func (n *asNode) caller() (c *client.Caller, id fclient.SigningIdentity, hangUp func(), err error) {
	if err := n.check(); err != nil {
		return nil, id, nil, usageError{err}
	}
	if n.signingKey == "" {
		return nil, id, nil, usageError{errors.New("--signing-key is required; relay keygen makes one")}
	}
	if id, err = identity(spec.ServerName(n.name), n.signingKey); err != nil {
		return nil, id, nil, err
	}
	to, hangUp := n.roads()
	c, err = client.NewCaller(client.CallerConfig{Identity: id, Transport: to, Timeout: n.timeout})
	return c, id, hangUp, err
}

// failure is an error of a Caller's.
func failure(err error) error {
	if err == nil || errors.As(err, new(*wire.Error)) || errors.Is(err, client.ErrUnsendable) {
		return err
	}
	return unreachable{err}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/pflag"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/store"
)

// passing has the command line's options on mail that this relay passes on.
type passing struct {
	to       destinations
	relaysOf relayTable
	at       addressTable
}

func (p *passing) flags(f *pflag.FlagSet) {
	f.Var(&p.to, "pass-on", "bring mail to these destinations and their relays, as soon as they can\n"+
		"be reached: a `LIST` of server names, or "+everyone+" (needs --signing-key; default\nnobody: mail waits until it is fetched)")
	f.Var(&p.relaysOf, "relays-of", "pass mail for a server on to these relays of it while it can't be\nreached itself: `SERVER=RELAY,RELAY`...; may be given again")
	f.Var(&p.at, "at", "pass mail on to a server at this address, over HTTP without TLS:\n"+
		"`SERVER=HOST:PORT`; may be given again. Others are found as Matrix\n"+
		"servers are, where --keys lets their keys be looked up; those whose\nname is their key can't be found otherwise")
}

func (p *passing) isOn() bool { return p.to.all || len(p.to.list) > 0 }

func (p *passing) check(signingKey string) error {
	switch {
	case p.isOn() && signingKey == "":
		return errors.New("--pass-on needs --signing-key, since requests are signed")
	case !p.isOn() && len(p.relaysOf) > 0:
		return errors.New("--relays-of needs --pass-on")
	case !p.isOn() && len(p.at) > 0:
		return errors.New("--at needs --pass-on")
	}
	for server := range p.relaysOf {
		if !p.to.has(server) {
			return fmt.Errorf("--relays-of: nothing is passed on for %s, which is not in --pass-on", server)
		}
	}
	return nil
}

// A passer passes mail on.
type passer struct {
	sender    *client.Sender
	outbox    *client.Outbox
	strangers *strangers
}

// startPassing passes on the mail in a relay's store. It must be closed before
// that is.
func startPassing(ctx context.Context, o *options, id fclient.SigningIdentity, mail store.Store, r *roads, log *slog.Logger) (p *passer, err error) {
	caller, err := client.NewCaller(client.CallerConfig{Identity: id, Transport: r})
	if err != nil {
		return nil, err
	}
	peers := client.NewPeers()
	for server, relays := range o.pass.relaysOf {
		if err := peers.AddRelays(ctx, server, relays...); err != nil {
			return nil, err
		}
	}
	p = &passer{strangers: r.strangers}
	o.pass.introduce(r.strangers)
	if p.sender, err = client.NewSender(client.SenderConfig{Caller: caller, Peers: peers, Logger: log}); err != nil {
		return nil, err
	}
	p.outbox, err = client.OpenOutbox(ctx, client.OutboxConfig{
		Sender: p.sender, Store: mail, Logger: log,
		PassOn: func(server spec.ServerName) bool { return server != id.ServerName && o.pass.to.has(server) },
		Notify: p.learn,
	})
	if err != nil {
		return nil, errors.Join(err, p.sender.Close())
	}
	return p, nil
}

// introduce names the servers that the operator names.
func (p *passing) introduce(s *strangers) {
	for server := range p.to.list {
		s.meet(server)
	}
	for server, relays := range p.relaysOf {
		s.meet(server)
		for _, relay := range relays {
			s.meet(relay)
		}
	}
}

// learn hears how mail ends.
func (p *passer) learn(e client.Event) {
	if e.Result == client.ResultDelivered {
		p.strangers.meet(e.Destination)
	}
}

// listenTo has the relay tell of new mail, and of servers that are there.
func (p *passer) listenTo(config *relay.Config) {
	config.Stored = p.outbox.Stored
	config.Asked = func(server spec.ServerName) {
		p.strangers.meet(server)
		p.outbox.Seen(server)
	}
}

func (p *passer) close() error { return errors.Join(p.outbox.Close(), p.sender.Close()) }

package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// late is how long after it was sent a request may reach a relay.
const late = 5 * time.Minute

// A dropbox is a relay. It may be closed and opened again.
type dropbox struct {
	*host
	config relay.Config
	ledger *ledger
	server atomic.Pointer[relay.Server]

	// Those that pass on have these.
	sending client.SenderConfig
	passing client.OutboxConfig
	sender  *client.Sender
	outbox  *client.Outbox
}

var dropboxNodes = func() (nodes []*relaytest.Node) {
	for i := range 3 {
		nodes = append(nodes, relaytest.NewNode(fmt.Sprint("dropbox", i)))
	}
	return nodes
}()

func (n *network) newDropbox(i int) *dropbox {
	node := dropboxNodes[i]
	d := &dropbox{ledger: &ledger{Store: memory.New(memory.Options{}), stored: make(map[mailKey]bool)}}
	d.host = n.newHost(node.ServerName, http.HandlerFunc(d.serve))
	d.late = func() time.Duration { return d.dice.upTo(late) }
	d.config = relay.Config{ServerName: d.name, Store: d.ledger, Logger: slog.New(slog.DiscardHandler), OriginShare: 1}
	if d.dice.chance(25) {
		d.config.MaxEntries = 4
	}
	if d.dice.chance(25) {
		d.config.MaxBodyBytes = 2000
	}
	if n.passing && d.dice.chance(75) {
		d.passOn(node)
	}
	d.open()
	return d
}

// passOn says how the relay passes on its mail.
func (d *dropbox) passOn(node *relaytest.Node) {
	caller, err := client.NewCaller(client.CallerConfig{Identity: node.SigningIdentity, Transport: d.n.net})
	require.NoError(d.n, err)
	backoff := client.Backoff{Most: time.Minute + d.dice.upTo(30*time.Minute)}
	d.sending = client.SenderConfig{Caller: caller, Peers: client.NewPeers(), Logger: d.config.Logger, RelayBackoff: backoff}
	d.passing = client.OutboxConfig{
		Store: slowStore{d.ledger, d.dice}, Logger: d.config.Logger, Backoff: backoff, Workers: 1 + d.dice.IntN(4),
		PassOn: func(spec.ServerName) bool { return true },
		Notify: func(e client.Event) {
			d.n.log("relay %.6s: %s for %.6s %s", d.name, e.TransactionID, e.Destination, e.Result)
		},
	}
}

// meet says which relays of others this one knows.
func (d *dropbox) meet(dice *dice) {
	for _, m := range d.n.members {
		for _, relay := range m.relays {
			if d.sending.Peers != nil && dice.chance(60) {
				require.NoError(d.n, d.sending.Peers.AddRelays(background, m.name, relay))
			}
		}
	}
}

func (d *dropbox) open() {
	var err error
	if d.passing.PassOn != nil {
		d.sender, err = client.NewSender(d.sending)
		require.NoError(d.n, err)
		d.passing.Sender = d.sender
		d.outbox, err = client.OpenOutbox(background, d.passing)
		require.NoError(d.n, err)
		d.config.Stored, d.config.Asked = d.outbox.Stored, d.outbox.Seen
	}
	server, err := relay.New(d.config)
	require.NoError(d.n, err)
	d.server.Store(server)
}

func (d *dropbox) close() {
	if err := d.server.Load().Close(); err != nil {
		d.n.Errorf("closing %.6s: %v", d.name, err)
	}
	if d.outbox != nil {
		require.NoError(d.n, d.outbox.Close())
		require.NoError(d.n, d.sender.Close())
	}
}

func (d *dropbox) serve(w http.ResponseWriter, r *http.Request) {
	server := d.server.Load()
	server.SetEnabled(!d.is(off))
	server.ServeHTTP(w, r)
}

// reopen is a restart, now and then.
func (d *dropbox) reopen(dice *dice) {
	if dice.chance(50) {
		return
	}
	d.n.log("%.6s closes", d.name)
	d.close()
	d.n.pause(dice, time.Minute)
	d.open()
}

// A ledger is a relay's store that knows everything that it has ever stored.
type ledger struct {
	*memory.Store

	mu     sync.Mutex
	stored map[mailKey]bool
}

type mailKey struct {
	destination, origin spec.ServerName
	id                  gomatrixserverlib.TransactionID
}

// Put implements store.Store.
func (l *ledger) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	stored, err := l.Store.Put(ctx, mail, limits)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stored[mailKey{mail.Destination, mail.Origin, mail.TransactionID}] = true
	}
	return stored, err
}

func (l *ledger) has(k mailKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stored[k]
}

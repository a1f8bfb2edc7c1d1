package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A member is a node of the network, which sends and receives.
type member struct {
	*host
	node   *relaytest.Node
	relays []spec.ServerName // which others may know
	inlet  *relay.Server     // takes or refuses mail that relays hand over; or nil
	mail   *memory.Store     // its outbox and its notes
	script *dice
	home   homeserver
	config struct {
		outbox   client.OutboxConfig
		sender   client.SenderConfig
		receiver client.ReceiverConfig
	}

	peers   *client.Peers
	sender  *client.Sender
	outbox  atomic.Pointer[client.Outbox] // nil while it is closed
	numbers map[*member]int               // of the last transaction for each

	mu       sync.Mutex
	receiver *client.Receiver // nil while it is closed
	stop     func()           // ends the receiver's Run
	requests sync.WaitGroup
}

var memberNodes = func() (nodes []*relaytest.Node) {
	for i := range 4 {
		nodes = append(nodes, relaytest.NewNode(fmt.Sprint("member", i)))
	}
	return nodes
}()

func (n *network) newMember(i int) *member {
	m := &member{node: memberNodes[i], mail: memory.New(memory.Options{}), numbers: make(map[*member]int)}
	m.host = n.newHost(m.node.ServerName, http.HandlerFunc(m.serve))
	m.script = n.dice("script of " + string(m.name))
	if n.passing {
		m.inlet = m.newInlet(m.script.chance(75))
	}
	m.home = homeserver{member: m, direct: make(map[mailKey]bool), ended: make(map[mailKey][]client.Result)}
	caller, err := client.NewCaller(client.CallerConfig{Identity: m.node.SigningIdentity, Transport: m})
	require.NoError(n, err)
	quiet := slog.New(slog.DiscardHandler)
	backoff := client.Backoff{Most: time.Minute + m.script.upTo(15*time.Minute)}
	m.config.sender = client.SenderConfig{
		Caller: caller, Logger: quiet, RelayBackoff: backoff,
		AttemptsBeforeOffline: 1 + m.script.IntN(3), MaxBackground: 1 + m.script.IntN(4),
	}
	m.config.outbox = client.OutboxConfig{
		Store: slowStore{m.mail, m.dice}, Logger: quiet, Notify: m.home.note, Backoff: backoff,
		KeepRelayed: []int{0, -1, 3}[m.script.IntN(3)], Workers: 1 + m.script.IntN(4),
	}
	m.config.receiver = client.ReceiverConfig{
		Caller: caller, Logger: quiet, Handle: m.handle, Backoff: backoff, PollInterval: 5*time.Minute + m.script.upTo(25*time.Minute),
		Wait: []time.Duration{-1, 5 * time.Minute}[m.script.IntN(2)],
		Keys: wire.HexKeys{}, RequireProof: m.script.chance(50),
	}
	m.peers, err = client.OpenPeers(background, m.mail)
	require.NoError(n, err)
	return m
}

// A slowStore takes a while, so that other things happen meanwhile.
type slowStore struct {
	notedStore
	dice *dice
}

type notedStore interface {
	store.Store
	store.Notes
}

// Next implements store.Store.
func (s slowStore) Next(ctx context.Context, destination spec.ServerName, after int64, maxEntries int, maxBytes int64) ([]store.Entry, error) {
	entries, err := s.notedStore.Next(ctx, destination, after, maxEntries, maxBytes)
	time.Sleep(s.dice.upTo(200 * time.Millisecond))
	return entries, err
}

// meet says which relays this node has, and which of them others know.
func (m *member) meet(d *dice) {
	for _, box := range m.n.dropboxes {
		if len(m.relays) == 0 || d.chance(60) {
			m.relays = append(m.relays, box.name)
		}
	}
	for _, other := range m.n.members {
		for _, relay := range m.relays {
			if other == m || d.chance(60) {
				require.NoError(m.n, other.peers.AddRelays(background, m.name, relay))
			}
		}
	}
}

// RoundTrip implements http.RoundTripper for the node's requests.
func (m *member) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.is(off) {
		return nil, errors.New("no network")
	}
	return m.n.net.RoundTrip(r)
}

// live has the node act on its own while there is trouble.
func (m *member) live() {
	for m.n.pause(m.script, m.n.length/20) {
		other := m.n.members[m.script.IntN(len(m.n.members))]
		switch m.script.IntN(10) {
		case 0, 1:
			m.restart(m.script.IntN(3))
		case 2:
			m.online()
			m.receiver.Sync(background) // beside its Run
		case 3:
			m.sees(other.name)
		case 4:
			m.learn(other)
		default:
			m.write(other)
		}
	}
}

// learn adds or removes a relay of a node.
func (m *member) learn(other *member) {
	relay := other.relays[m.script.IntN(len(other.relays))]
	change := m.peers.AddRelays
	if m.script.chance(30) {
		change = m.peers.RemoveRelays
	}
	require.NoError(m.n, change(background, other.name, relay))
	m.n.log("%.6s knows %v as relays of %.6s", m.name, m.peers.Relays(other.name), other.name)
}

// restart closes the outbox, the receiver or both for a while. Mail goes on
// being written.
func (m *member) restart(what int) {
	sending, receiving := what != 0, what != 1
	m.n.log("%.6s closes (sending %t, receiving %t)", m.name, sending, receiving)
	m.online()
	m.n.pause(m.script, 10*time.Second) // so that it is busy
	if receiving {
		m.closeReceiver()
	}
	if sending {
		m.closeOutbox()
	}
	m.n.pause(m.script, 10*time.Minute)
	if sending && receiving {
		var err error
		m.peers, err = client.OpenPeers(background, m.mail)
		require.NoError(m.n, err)
	}
	m.reopen(sending, receiving)
}

// reopen opens the parts that were closed, on the same store.
func (m *member) reopen(sending, receiving bool) {
	var err error
	if sending {
		config := m.config.sender
		config.Peers = m.peers
		m.sender, err = client.NewSender(config)
		require.NoError(m.n, err)
		outbox := m.config.outbox
		outbox.Sender = m.sender
		opened, err := client.OpenOutbox(background, outbox)
		require.NoError(m.n, err)
		m.outbox.Store(opened)
	}
	if receiving {
		config := m.config.receiver
		config.Peers = m.peers
		config.History, err = client.OpenHistory(background, m.mail, 0)
		require.NoError(m.n, err)
		receiver, err := client.NewReceiver(config)
		require.NoError(m.n, err)
		m.run(receiver)
	}
}

func (m *member) run(receiver *client.Receiver) {
	ctx, cancel := context.WithCancel(background)
	ended := make(chan error, 1)
	go func() { ended <- receiver.Run(ctx) }()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.receiver = receiver
	m.stop = func() {
		cancel()
		require.ErrorIs(m.n, <-ended, context.Canceled)
	}
}

// closeReceiver refuses requests, and waits for those that are being handled.
func (m *member) closeReceiver() {
	m.mu.Lock()
	m.receiver = nil
	m.mu.Unlock()
	m.stop()
	m.requests.Wait()
}

func (m *member) closeOutbox() {
	require.NoError(m.n, m.outbox.Swap(nil).Close())
	require.NoError(m.n, m.sender.Close())
}

// announce says that the node is back, though not always and not to all.
func (m *member) announce(d *dice) {
	m.online()
	for _, other := range m.n.members {
		if d.chance(50) {
			other.sees(m.name)
		}
	}
}

func (m *member) online() {
	if receiver := m.enter(); receiver != nil {
		receiver.Online()
		m.requests.Done()
	}
}

func (m *member) sees(other spec.ServerName) {
	if outbox := m.outbox.Load(); outbox != nil {
		outbox.Seen(other)
	}
}

// enter returns the receiver, and counts a request that it must outlive.
func (m *member) enter() *client.Receiver {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.receiver != nil {
		m.requests.Add(1)
	}
	return m.receiver
}

// write puts some transactions into the outbox.
func (m *member) write(to *member) {
	outbox := m.outbox.Load()
	for range 1 + m.script.IntN(5) {
		if to == m || outbox == nil {
			return
		}
		s := m.compose(to)
		times := 1 + m.script.IntN(8)/7
		for range times {
			require.NoError(m.n, outbox.Enqueue(background, client.Transaction{ID: s.key.id, Destination: to.name, Body: s.body}))
		}
		if m.script.chance(50) {
			m.n.pause(m.script, []time.Duration{time.Second, time.Minute}[m.script.IntN(2)])
		}
	}
}

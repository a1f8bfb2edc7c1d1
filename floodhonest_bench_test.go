package relay_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// clientFrom makes connections from that address of loopback.
func clientFrom(address string) *http.Client {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	t := &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 1000, Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(true)
	return &http.Client{Transport: t}
}

// sendTo sends a request and returns its answer, status 0 if there was none.
func sendTo(address string, client *http.Client, r *http.Request) (status int, answer []byte) {
	r.URL.Scheme, r.URL.Host = "http", address
	response, err := client.Do(r)
	if err != nil {
		return 0, nil
	}
	answer, _ = io.ReadAll(response.Body) // as much as has come
	_ = response.Body.Close()
	return response.StatusCode, answer
}

// honestRates are transactions a second, the 99th percentiles of a PUT and of its way to the
// receiver in seconds, and the processors that the relay used.
type honestRates struct{ puts, got, p99, late, refused, cpu float64 }

func (r *honestRates) add(o honestRates) {
	*r = honestRates{r.puts + o.puts, r.got + o.got, r.p99 + o.p99, r.late + o.late, r.refused + o.refused, r.cpu + o.cpu}
}

// percentile99 is in seconds.
func percentile99(of []time.Duration) float64 {
	slices.Sort(of)
	return of[len(of)*99/100].Seconds()
}

// An honestNode is at an address of its own.
type honestNode struct {
	*relaytest.Node
	client *http.Client
}

func newHonest(round int, kind string, number int) honestNode {
	at := map[string]int{"from": 0, "to": 50, "phone": 100}[kind] + number
	return honestNode{relaytest.NewNode(fmt.Sprint(round, kind, number)), clientFrom(fmt.Sprintf("127.0.%d.%d", round, at))}
}

// A crowd is 16 senders and 16 receivers, and four phones that upload 20 KB slowly.
type crowd struct {
	*besieged
	pairs   [16]pair
	refused atomic.Int64
}

// A pair is a sender and its receiver.
type pair struct {
	from, to   honestNode
	took, late []time.Duration // of each PUT, and until each transaction came

	mu    sync.Mutex
	began map[gomatrixserverlib.TransactionID]time.Time
}

// honest measures a crowd.
func (f *besieged) honest(round int) honestRates {
	c := crowd{besieged: f}
	for i := range c.pairs {
		p := &c.pairs[i]
		p.from, p.to = newHonest(round, "from", i), newHonest(round, "to", i)
		p.began = make(map[gomatrixserverlib.TransactionID]time.Time)
		c.claim(p.to)
	}
	before := processorTime(f, f.server)
	ctx, stop := context.WithTimeout(f.Context(), floodTime)
	defer stop()
	var all sync.WaitGroup
	for i := range c.pairs {
		all.Go(func() { c.leave(ctx, &c.pairs[i]) })
		all.Go(func() { c.receive(ctx, &c.pairs[i]) })
	}
	for i := range 4 {
		all.Go(func() { c.upload(ctx, newHonest(round, "phone", i)) })
	}
	all.Wait()
	cpu := processorTime(f, f.server) - before
	var took, late []time.Duration
	for i := range c.pairs {
		took, late = append(took, c.pairs[i].took...), append(late, c.pairs[i].late...)
	}
	second := floodTime.Seconds()
	return honestRates{
		float64(len(took)) / second, float64(len(late)) / second, percentile99(took), percentile99(late),
		float64(c.refused.Load()), cpu / second,
	}
}

// send counts requests that are refused.
func (c *crowd) send(from honestNode, r *http.Request) (answer []byte, taken bool) {
	status, answer := sendTo(c.address, from.client, r)
	if status != http.StatusOK {
		c.refused.Add(1)
	}
	return answer, status == http.StatusOK
}

// claim has a receiver ask for its mail once, before there is any.
func (c *crowd) claim(node honestNode) {
	r, err := node.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(node.ServerName)), fclient.RelayEntry{})
	require.NoError(c, err)
	answer, taken := c.send(node, r)
	require.True(c, taken, "%s", answer)
}

func (c *crowd) leave(ctx context.Context, p *pair) {
	defer p.from.client.CloseIdleConnections()
	for n := 0; ctx.Err() == nil; n++ {
		t := p.from.Transaction(p.to.ServerName, fmt.Sprint(n), 5, 1500)
		r, err := p.from.Request(http.MethodPut, relayName, wire.SendRelayURI(t.TransactionID, relaytest.User(p.to.ServerName)), t)
		require.NoError(c, err)
		began := time.Now()
		p.mu.Lock()
		p.began[t.TransactionID] = began
		p.mu.Unlock()
		c.send(p.from, r)
		p.took = append(p.took, time.Since(began))
	}
}

func (c *crowd) receive(ctx context.Context, p *pair) {
	defer p.to.client.CloseIdleConnections()
	var entry int64
	for ctx.Err() == nil {
		uri := wire.RelayTxnURI(relaytest.User(p.to.ServerName)) + "?limit=20&timeout=500"
		r, err := p.to.Request(http.MethodGet, relayName, uri, fclient.RelayEntry{EntryID: entry})
		require.NoError(c, err)
		answer, taken := c.send(p.to, r)
		if !taken {
			continue
		}
		for _, got := range entriesOf(c, string(answer)) {
			entry = got.EntryID
			p.mu.Lock()
			if began, isOurs := p.began[got.TransactionID]; isOurs {
				p.late = append(p.late, time.Since(began))
			}
			p.mu.Unlock()
		}
	}
}

func (c *crowd) upload(ctx context.Context, phone honestNode) {
	defer phone.client.CloseIdleConnections()
	t := phone.Transaction(phone.ServerName, "1", 1, 20_000)
	r, err := phone.Request(http.MethodPut, relayName, wire.SendRelayURI(t.TransactionID, relaytest.User(phone.ServerName)), t)
	require.NoError(c, err)
	r.Body = io.NopCloser(&dribble{ctx, r.Body, 20_000 * time.Second / floodTime})
	c.send(phone, r)
}

// A dribble comes at some bytes a second while its context lasts, and then at once.
type dribble struct {
	ctx  context.Context
	in   io.Reader
	rate time.Duration // bytes
}

func (d *dribble) Read(p []byte) (int, error) {
	n, err := d.in.Read(p[:min(len(p), max(1, int(d.rate/10)))])
	select {
	case <-d.ctx.Done():
	case <-time.After(time.Duration(n) * time.Second / d.rate):
	}
	return n, err
}

package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// floodTime is how long honest ones are measured, alone and under attack.
const floodTime = 4 * time.Second

// BenchmarkFlood has strangers at one address do their worst on loopback, beside 16
// honest senders and 16 receivers at addresses of their own. The relay has the policy
// that operators get. It reports which part of the rate without strangers is left to the
// honest ones, in the same run: of PUTs and of mail that is received. It also reports the
// 99th percentile of a PUT against that without strangers, how many honest requests were
// refused, and by how many MB the relay grew. All share the processors, so a busy machine
// changes these rates. It changes "cores" less: how many processors of the relay the attack
// takes, besides those that honest transactions take without it. In "nothing" nobody
// attacks.
func BenchmarkFlood(b *testing.B) {
	for _, attack := range []struct {
		name    string
		prepare func(*besieged) (attack func(context.Context))
	}{
		{"nothing", nothing}, {"uploads", uploads}, {"zero", zeroSignatures}, {"forged", forgedSignatures},
		{"refetch", refetch}, {"waits", manyWaits}, {"headers", slowHeaders},
	} {
		b.Run(attack.name, func(b *testing.B) {
			var alone, under honestRates
			var grown float64
			for range b.N {
				f := newBesieged(b)
				run := attack.prepare(f)
				alone.add(f.honest(1))
				before := f.memory()
				ctx, stop := context.WithCancel(b.Context())
				var flood sync.WaitGroup
				flood.Go(func() { run(ctx) })
				time.Sleep(floodTime / 4)
				under.add(f.honest(2))
				grown = max(grown, f.memory()-before)
				stop()
				flood.Wait()
				f.stop()
			}
			b.ReportMetric(under.puts/alone.puts, "puts")
			b.ReportMetric(under.got/alone.got, "fetches")
			b.ReportMetric(under.p99/alone.p99, "p99")
			b.ReportMetric((under.cpu-alone.cpu/alone.puts*under.puts)/float64(b.N), "cores")
			b.ReportMetric(under.refused, "refused")
			b.ReportMetric(grown, "MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// A besieged relay is another process.
type besieged struct {
	testing.TB
	address string
	command *exec.Cmd
	input   io.Closer
}

func newBesieged(b *testing.B) *besieged {
	f := &besieged{TB: b}
	f.command, f.input, f.address = startServer(b, "flood")
	return f
}

func (f *besieged) stop() {
	require.NoError(f, f.input.Close())
	require.NoError(f, f.command.Wait())
}

var residentSet = regexp.MustCompile(`VmRSS:\s*(\d+) kB`)

// memory is how many MB the relay's process has; 0 where nobody can tell.
func (f *besieged) memory() float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.command.Process.Pid))
	if err != nil {
		return 0
	}
	found := residentSet.FindSubmatch(status)
	require.NotNil(f, found)
	kilobytes, err := strconv.Atoi(string(found[1]))
	require.NoError(f, err)
	return float64(kilobytes) / 1024
}

// processorTime is how many seconds the relay's process has used; 0 where nobody can tell.
func (f *besieged) processorTime() float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.command.Process.Pid))
	if err != nil {
		return 0
	}
	_, numbers, _ := strings.Cut(string(status), ") ")
	fields := strings.Fields(numbers)
	require.Greater(f, len(fields), 12)
	user, err := strconv.Atoi(fields[11])
	require.NoError(f, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(f, err)
	return float64(user+system) / 100 // Linux counts hundredths
}

// clientFrom makes connections from that address of loopback.
func clientFrom(address string) *http.Client {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	t := &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 1000, Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(true)
	return &http.Client{Transport: t}
}

// send sends a request and returns its answer, status 0 if there was none.
func (f *besieged) send(client *http.Client, r *http.Request) (status int, answer []byte) {
	r.URL.Scheme, r.URL.Host = "http", f.address
	response, err := client.Do(r)
	if err != nil {
		return 0, nil
	}
	answer, _ = io.ReadAll(response.Body) // as much as has come
	_ = response.Body.Close()
	return response.StatusCode, answer
}

// honestRates are transactions a second, the 99th percentile of a PUT in seconds, and the
// processors that the relay used.
type honestRates struct{ puts, got, p99, refused, cpu float64 }

func (r *honestRates) add(o honestRates) {
	*r = honestRates{r.puts + o.puts, r.got + o.got, r.p99 + o.p99, r.refused + o.refused, r.cpu + o.cpu}
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

// honest measures 16 senders and 16 receivers, and four phones that upload 20 KB slowly.
func (f *besieged) honest(round int) honestRates {
	var receivers []honestNode
	for i := range 16 {
		receivers = append(receivers, newHonest(round, "to", i))
		f.claim(receivers[i])
	}
	before := f.processorTime()
	ctx, stop := context.WithTimeout(f.Context(), floodTime)
	defer stop()
	var all sync.WaitGroup
	var got, refused atomic.Int64
	took := make([][]time.Duration, 16)
	for i := range 16 {
		from, to := newHonest(round, "from", i), receivers[i]
		all.Go(func() {
			defer from.client.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				t := from.Transaction(to.ServerName, fmt.Sprint(n), 5, 1500)
				r, err := from.Request(http.MethodPut, relayName, wire.SendRelayURI(t.TransactionID, relaytest.User(to.ServerName)), t)
				require.NoError(f, err)
				began := time.Now()
				if status, _ := f.send(from.client, r); status != http.StatusOK {
					refused.Add(1)
				}
				took[i] = append(took[i], time.Since(began))
			}
		})
		all.Go(func() { f.receive(ctx, to, &got, &refused) })
	}
	for i := range 4 {
		all.Go(func() {
			phone := newHonest(round, "phone", i)
			defer phone.client.CloseIdleConnections()
			t := phone.Transaction(phone.ServerName, "1", 1, 20_000)
			r, err := phone.Request(http.MethodPut, relayName, wire.SendRelayURI(t.TransactionID, relaytest.User(phone.ServerName)), t)
			require.NoError(f, err)
			r.Body = io.NopCloser(&dribble{ctx, r.Body, 20_000 * time.Second / floodTime})
			if status, _ := f.send(phone.client, r); status != http.StatusOK {
				refused.Add(1)
			}
		})
	}
	all.Wait()
	sorted := slices.Sorted(slices.Values(slices.Concat(took...)))
	return honestRates{
		float64(len(sorted)) / floodTime.Seconds(), float64(got.Load()) / floodTime.Seconds(),
		sorted[len(sorted)*99/100].Seconds(), float64(refused.Load()),
		(f.processorTime() - before) / floodTime.Seconds(),
	}
}

// claim has a receiver ask for its mail once, before there is any.
func (f *besieged) claim(node honestNode) {
	r, err := node.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(node.ServerName)), fclient.RelayEntry{})
	require.NoError(f, err)
	status, answer := f.send(node.client, r)
	require.Equal(f, http.StatusOK, status, "%s", answer)
}

func (f *besieged) receive(ctx context.Context, node honestNode, got, refused *atomic.Int64) {
	defer node.client.CloseIdleConnections()
	var entry int64
	for ctx.Err() == nil {
		uri := wire.RelayTxnURI(relaytest.User(node.ServerName)) + "?limit=20&timeout=500"
		r, err := node.Request(http.MethodGet, relayName, uri, fclient.RelayEntry{EntryID: entry})
		require.NoError(f, err)
		status, answer := f.send(node.client, r)
		if status != http.StatusOK {
			refused.Add(1)
			continue
		}
		entries := entriesOf(f, string(answer))
		got.Add(int64(len(entries)))
		if len(entries) > 0 {
			entry = entries[len(entries)-1].EntryID
		}
	}
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

const flooder = "127.0.0.2"

// flood has connections do the same again and again.
func (f *besieged) flood(ctx context.Context, connections int, once func(*http.Client, int)) {
	client := clientFrom(flooder)
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	for i := range connections {
		all.Go(func() {
			for ctx.Err() == nil {
				once(client, i)
			}
		})
	}
	all.Wait()
}

// forgery is a PUT with a signature that nobody made.
func (f *besieged) forgery(ctx context.Context, origin spec.ServerName, signature string, body io.Reader, size int) *http.Request {
	uri := wire.SendRelayURI("1", relaytest.User(origin))
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+f.address+uri, body)
	require.NoError(f, err)
	r.ContentLength = int64(size)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", fmt.Sprintf(`X-Matrix origin="%s",key="ed25519:1",sig="%s"`, origin, signature))
	return r
}

var forgedSignature = strings.Repeat("B", 85) + "A"

// nothing shows how much the figures of one run differ.
func nothing(*besieged) func(context.Context) { return func(context.Context) {} }

// uploads: six connections upload 10 MiB each, at 5 MB a second.
func uploads(f *besieged) func(context.Context) {
	body, origin := largeContent(10<<20-100), relaytest.NewNode("uploads").ServerName
	return func(ctx context.Context) {
		f.flood(ctx, 6, func(client *http.Client, _ int) {
			slow := &dribble{ctx, bytes.NewReader(body), 5_000_000}
			f.send(client, f.forgery(ctx, origin, forgedSignature, slow, len(body)))
		})
	}
}

// uncanonical is 250 KB that aren't canonical and nest deep.
func uncanonical250() []byte {
	const depth = 120
	head, tail := `{"pdus":[{"z":`+strings.Repeat(`{"b":`, depth), strings.Repeat(`,"a":1}`, depth)+`,"a":1}]}`
	return []byte(head + `"` + strings.Repeat("x", 250_000-len(head)-len(tail)) + `"` + tail)
}

func uncanonicalFlood(f *besieged, signature string) func(context.Context) {
	body, origin := uncanonical250(), relaytest.NewNode("forger").ServerName
	return func(ctx context.Context) {
		f.flood(ctx, 20, func(client *http.Client, _ int) {
			f.send(client, f.forgery(ctx, origin, signature, bytes.NewReader(body), len(body)))
		})
	}
}

// zeroSignatures: 20 connections with bodies that aren't canonical, the signature zero.
func zeroSignatures(f *besieged) func(context.Context) {
	return uncanonicalFlood(f, strings.Repeat("A", 86))
}

// forgedSignatures: the same with a signature that could be one.
func forgedSignatures(f *besieged) func(context.Context) { return uncanonicalFlood(f, forgedSignature) }

// refetch: 20 connections fetch 4 MiB of their own mailbox, and acknowledge nothing.
func refetch(f *besieged) func(context.Context) {
	node, client := relaytest.NewNode("refetch"), clientFrom(flooder)
	defer client.CloseIdleConnections()
	f.claim(honestNode{node, client})
	for i := range 40 {
		content := json.RawMessage(fmt.Sprintf(`{"origin_server_ts":1,"pdus":[{"n":%d},%s]}`, i, largeContent(100_000)))
		r, err := node.Request(http.MethodPut, relayName, wire.SendRelayURI("1", relaytest.User(node.ServerName)), content)
		require.NoError(f, err)
		status, answer := f.send(client, r)
		require.Equal(f, http.StatusOK, status, "%s", answer)
	}
	return func(ctx context.Context) {
		f.flood(ctx, 20, func(client *http.Client, _ int) {
			r, err := node.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(node.ServerName))+"?limit=500", fclient.RelayEntry{})
			require.NoError(f, err)
			f.send(client, r.WithContext(ctx))
		})
	}
}

// manyWaits: on each of 80 HTTP/2 connections as many receivers as may wait under
// made-up names, again and again.
func manyWaits(f *besieged) func(context.Context) {
	var requests []*http.Request
	for i := range 80 * maxStreams {
		node := relaytest.NewNode(fmt.Sprint("waits", i))
		r, err := node.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(node.ServerName))+"?timeout=300000", fclient.RelayEntry{})
		require.NoError(f, err)
		requests = append(requests, r)
	}
	return func(ctx context.Context) {
		var all sync.WaitGroup
		for some := range slices.Chunk(requests, maxStreams) {
			all.Go(func() {
				client := f.oneHTTP2(ctx) // may have to wait for its answer
				defer client.CloseIdleConnections()
				var streams sync.WaitGroup
				for _, r := range some {
					streams.Go(func() {
						for ctx.Err() == nil {
							again := r.Clone(ctx)
							again.Body, _ = r.GetBody() // of bytes, which are there
							f.send(client, again)
						}
					})
				}
				streams.Wait()
			})
		}
		all.Wait()
	}
}

// oneHTTP2 returns a client that has a connection with HTTP/2, and makes no other.
func (f *besieged) oneHTTP2(ctx context.Context) *http.Client {
	client := clientFrom(flooder)
	t := client.Transport.(*http.Transport)
	t.MaxConnsPerHost = 1
	t.Protocols = new(http.Protocols)
	t.Protocols.SetUnencryptedHTTP2(true)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, wire.InfoURI, nil)
	require.NoError(f, err)
	f.send(client, r) // so that all others come on its connection
	return client
}

// slowHeaders: 5,000 connections each send half a header, and nothing more.
func slowHeaders(f *besieged) func(context.Context) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(flooder)}}
	half := "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 8000)
	return func(ctx context.Context) {
		for range 5000 {
			c, err := dialer.DialContext(ctx, "tcp", f.address)
			if err != nil {
				break // stopped, or out of files
			}
			defer func() { _ = c.Close() }()
			_, _ = c.Write([]byte(half)) // it may be closed by now
		}
		<-ctx.Done()
	}
}

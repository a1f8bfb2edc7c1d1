package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// The attackers are this program again, in a process of their own.
const benchAttack, benchTarget = "RELAY_BENCH_ATTACK", "RELAY_BENCH_TARGET"

// An attacker counts its attempts.
type attacker struct {
	address string
	tried   atomic.Int64
}

// An attack is made ready, and then runs until its context ends.
type attack struct {
	name    string
	prepare func(*attacker) (run func(context.Context))
}

var attacks = []attack{
	{"nothing", nothing}, {"odd", oddRequests}, {"oddnew", oddOnNewConnections}, {"uploads", uploads},
	{"zero", zeroSignatures}, {"forged", forgedSignatures}, {"refetch", refetch}, {"waits", manyWaits},
	{"headers", slowHeaders}, {"pings", pings}, {"madeup", madeUpDestinations}, {"names", manyNames}, {"cycles", cycles},
}

// serveAttack says when it is ready, attacks from the first line of its input until its
// end, and prints how often it tried.
func serveAttack(name string) error {
	a := &attacker{address: os.Getenv(benchTarget)}
	i := slices.IndexFunc(attacks, func(one attack) bool { return one.name == name })
	run := attacks[i].prepare(a)
	fmt.Println("ready")
	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	var flood sync.WaitGroup
	flood.Go(func() { run(ctx) })
	_, err := io.Copy(io.Discard, input)
	stop()
	flood.Wait()
	fmt.Println(a.tried.Load())
	return err
}

// must ends an attacker that fails by itself.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func (a *attacker) send(client *http.Client, r *http.Request) (status int, answer []byte) {
	a.tried.Add(1)
	return sendTo(a.address, client, r)
}

const flooder = "127.0.0.2"

// flood has connections do the same again and again.
func (a *attacker) flood(ctx context.Context, connections int, client *http.Client, once func(number int)) {
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	for i := range connections {
		all.Go(func() {
			for ctx.Err() == nil {
				once(i)
			}
		})
	}
	all.Wait()
}

// forgery is a PUT with a signature that nobody made.
func forgery(ctx context.Context, origin spec.ServerName, signature string, body io.Reader, size int) *http.Request {
	uri := wire.SendRelayURI("1", relaytest.User(origin))
	r := must(http.NewRequestWithContext(ctx, http.MethodPut, "http://relay"+uri, body))
	r.ContentLength = int64(size)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", fmt.Sprintf(`X-Matrix origin="%s",key="ed25519:1",sig="%s"`, origin, signature))
	return r
}

var forgedSignature = strings.Repeat("B", 85) + "A"

// nothing shows how much the figures of one run differ.
func nothing(*attacker) func(context.Context) { return func(context.Context) {} }

// oddRequests: 50 connections send unsigned requests, wrong signatures and odd paths.
func oddRequests(a *attacker) func(context.Context) { return a.odd(clientFrom(flooder)) }

// oddOnNewConnections: the same, each on a connection of its own.
func oddOnNewConnections(a *attacker) func(context.Context) {
	client := clientFrom(flooder)
	client.Transport.(*http.Transport).DisableKeepAlives = true
	return a.odd(client)
}

func (a *attacker) odd(client *http.Client) func(context.Context) {
	origin, content := relaytest.NewNode("odd").ServerName, largeContent(1000)
	uri := wire.SendRelayURI("1", relaytest.User(origin))
	return func(ctx context.Context) {
		a.flood(ctx, 50, client, func(i int) {
			var r *http.Request
			switch i % 3 {
			case 0:
				r = must(http.NewRequestWithContext(ctx, http.MethodPut, "http://relay"+uri, bytes.NewReader(content)))
			case 1:
				r = forgery(ctx, origin, forgedSignature, bytes.NewReader(content), len(content))
			default:
				r = must(http.NewRequestWithContext(ctx, http.MethodGet, "http://relay/_matrix/odd", nil))
			}
			a.send(client, r)
		})
	}
}

// uploads: six connections upload 10 MiB each, at 5 MB a second.
func uploads(a *attacker) func(context.Context) {
	body, origin, client := largeContent(10<<20-100), relaytest.NewNode("uploads").ServerName, clientFrom(flooder)
	return func(ctx context.Context) {
		a.flood(ctx, 6, client, func(int) {
			slow := &dribble{ctx, bytes.NewReader(body), 5_000_000}
			a.send(client, forgery(ctx, origin, forgedSignature, slow, len(body)))
		})
	}
}

// uncanonical is 250 KB that aren't canonical and nest deep.
func uncanonical250() []byte {
	const depth = 120
	head, tail := `{"pdus":[{"z":`+strings.Repeat(`{"b":`, depth), strings.Repeat(`,"a":1}`, depth)+`,"a":1}]}`
	return []byte(head + `"` + strings.Repeat("x", 250_000-len(head)-len(tail)) + `"` + tail)
}

func (a *attacker) uncanonical(signature string) func(context.Context) {
	body, origin, client := uncanonical250(), relaytest.NewNode("forger").ServerName, clientFrom(flooder)
	return func(ctx context.Context) {
		a.flood(ctx, 20, client, func(int) {
			a.send(client, forgery(ctx, origin, signature, bytes.NewReader(body), len(body)))
		})
	}
}

// zeroSignatures: 20 connections with bodies that aren't canonical, the signature zero.
func zeroSignatures(a *attacker) func(context.Context) {
	return a.uncanonical(strings.Repeat("A", 86))
}

// forgedSignatures: the same with a signature that could be one.
func forgedSignatures(a *attacker) func(context.Context) { return a.uncanonical(forgedSignature) }

// fetch is a request for a node's mail.
func fetch(ctx context.Context, node *relaytest.Node, query string, entry fclient.RelayEntry) *http.Request {
	uri := wire.RelayTxnURI(relaytest.User(node.ServerName)) + query
	return must(node.Request(http.MethodGet, relayName, uri, entry)).WithContext(ctx)
}

// mail is a request that leaves content for another node.
func mail(ctx context.Context, from, to *relaytest.Node, id string, content json.RawMessage) *http.Request {
	uri := wire.SendRelayURI(gomatrixserverlib.TransactionID(id), relaytest.User(to.ServerName))
	return must(from.Request(http.MethodPut, relayName, uri, content)).WithContext(ctx)
}

// refetch: 20 connections fetch 4 MiB of their own mailbox, and acknowledge nothing.
func refetch(a *attacker) func(context.Context) {
	node, client := relaytest.NewNode("refetch"), clientFrom(flooder)
	a.send(client, fetch(context.Background(), node, "", fclient.RelayEntry{})) // claims the mailbox
	for i := range 40 {
		content := json.RawMessage(fmt.Sprintf(`{"origin_server_ts":1,"pdus":[{"n":%d},%s]}`, i, largeContent(100_000)))
		if status, answer := a.send(client, mail(context.Background(), node, node, "1", content)); status != http.StatusOK {
			panic(string(answer))
		}
	}
	return func(ctx context.Context) {
		a.flood(ctx, 20, client, func(int) { a.send(client, fetch(ctx, node, "?limit=500", fclient.RelayEntry{})) })
	}
}

// manyWaits: on each of 80 HTTP/2 connections as many receivers as may wait under
// made-up names, again and again.
func manyWaits(a *attacker) func(context.Context) {
	var requests []*http.Request
	for i := range 80 * maxStreams {
		node := relaytest.NewNode(fmt.Sprint("waits", i))
		requests = append(requests, fetch(context.Background(), node, "?timeout=300000", fclient.RelayEntry{}))
	}
	return func(ctx context.Context) {
		var all sync.WaitGroup
		for some := range slices.Chunk(requests, maxStreams) {
			all.Go(func() {
				client := a.oneHTTP2(ctx) // may have to wait for its answer
				a.flood(ctx, len(some), client, func(i int) {
					again := some[i].Clone(ctx)
					again.Body = must(some[i].GetBody())
					a.send(client, again)
				})
			})
		}
		all.Wait()
	}
}

// oneHTTP2 returns a client that has a connection with HTTP/2, and makes no other.
func (a *attacker) oneHTTP2(ctx context.Context) *http.Client {
	client := clientFrom(flooder)
	t := client.Transport.(*http.Transport)
	t.MaxConnsPerHost = 1
	t.Protocols = new(http.Protocols)
	t.Protocols.SetUnencryptedHTTP2(true)
	a.send(client, must(http.NewRequestWithContext(ctx, http.MethodGet, wire.InfoURI, nil))) // so that all others come on its connection
	return client
}

// slowHeaders: 5,000 connections each send half a header, and nothing more.
func slowHeaders(a *attacker) func(context.Context) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(flooder)}}
	half := "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 8000)
	return func(ctx context.Context) {
		for range 5000 {
			a.tried.Add(1)
			c, err := dialer.DialContext(ctx, "tcp", a.address)
			if err != nil {
				break // stopped, or out of files
			}
			defer func() { _ = c.Close() }()
			_, _ = c.Write([]byte(half)) // it may be closed by now
		}
		<-ctx.Done()
	}
}

// pings: 20 connections send frames of HTTP/2 that belong to no request, as fast as they can.
func pings(a *attacker) func(context.Context) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // with SETTINGS
	const ping, many = "\x00\x00\x08\x06\x00\x00\x00\x00\x00" + "12345678", 100
	frames := []byte(strings.Repeat(ping, many))
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(flooder)}}
	return func(ctx context.Context) {
		a.flood(ctx, 20, clientFrom(flooder), func(int) {
			c, err := dialer.DialContext(ctx, "tcp", a.address)
			if err != nil {
				return // stopped, or there are too many
			}
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			go func() { _, _ = io.Copy(io.Discard, c) }() // the answers, until it is closed
			for _, err = io.WriteString(c, preface); err == nil; _, err = c.Write(frames) {
				a.tried.Add(many)
			}
			_ = c.Close()
		})
	}
}

// madeUpDestinations: 50 connections leave mail of one name, each for another server that
// doesn't exist.
func madeUpDestinations(a *attacker) func(context.Context) {
	from, client := relaytest.NewNode("madeup"), clientFrom(flooder)
	var number atomic.Int64
	return func(ctx context.Context) {
		a.flood(ctx, 50, client, func(int) {
			to := relaytest.NewNode(fmt.Sprint("madeup", number.Add(1)))
			a.send(client, mail(ctx, from, to, "1", largeContent(7500)))
		})
	}
}

// manyNames: 50 connections leave mail in one mailbox, each time under a new name.
func manyNames(a *attacker) func(context.Context) {
	to, client := newHonest(2, "to", 0).Node, clientFrom(flooder)
	var number atomic.Int64
	return func(ctx context.Context) {
		a.flood(ctx, 50, client, func(int) {
			from := relaytest.NewNode(fmt.Sprint("name", number.Add(1)))
			a.send(client, mail(ctx, from, to, "strange", largeContent(7500)))
		})
	}
}

// cycles: 50 servers each leave mail for themselves and acknowledge it, again and again.
func cycles(a *attacker) func(context.Context) {
	client := clientFrom(flooder)
	var nodes []*relaytest.Node
	for i := range 50 {
		nodes = append(nodes, relaytest.NewNode(fmt.Sprint("cycles", i)))
	}
	var number atomic.Int64
	return func(ctx context.Context) {
		a.flood(ctx, len(nodes), client, func(i int) {
			node, id := nodes[i], fmt.Sprint(number.Add(1))
			a.send(client, mail(ctx, node, node, id, largeContent(100)))
			_, answer := a.send(client, fetch(ctx, node, "", fclient.RelayEntry{}))
			if got, err := wire.ReadAnswer(answer); err == nil && got.EntriesQueued {
				a.send(client, fetch(ctx, node, "", fclient.RelayEntry{EntryID: got.EntryID}))
			}
		})
	}
}

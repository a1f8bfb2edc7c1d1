package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/checkonly"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/sqlite"
	"github.com/matrixrelay/relay/wire"
)

// The benchmark's server is this program again, in another process.
const benchServer, benchDatabase = "RELAY_BENCH_SERVER", "RELAY_BENCH_DATABASE"

func TestMain(m *testing.M) {
	if kind := os.Getenv(benchServer); kind != "" {
		if err := serveBenchmark(kind); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if name := os.Getenv(benchAttack); name != "" {
		if err := serveAttack(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveBenchmark prints its address and serves until its standard input ends.
func serveBenchmark(kind string) error {
	var handler http.Handler = checkonly.Handler(relayName, relay.HexKeys{})
	if kind != "verify" {
		kept, err := sqlite.Open(os.Getenv(benchDatabase), sqlite.Options{})
		if err != nil {
			return err
		}
		defer func() { _ = kept.Close() }()
		config := relay.Config{ServerName: relayName, Store: kept, OriginShare: 1}
		if kind == "flood" {
			if config, err = floodConfig(kept); err != nil {
				return err
			}
		}
		if kind == "unproven" {
			config.Store = unprovenStore{kept}
		}
		if kind == "records" || kind == "unrecorded" {
			if err := bringRecords(kept); err != nil {
				return err
			}
		}
		if kind == "unrecorded" {
			config.MaxRecords = -1
		}
		if kind == "limited" || kind == "claimed" {
			limited, err := benchPolicy(kept)
			if err != nil {
				return err
			}
			if kind == "limited" {
				config.Policy = limited
			}
		}
		server, err := relay.New(config)
		if err != nil {
			return err
		}
		defer func() { _ = server.Close() }()
		handler = server
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	web := &http.Server{Handler: handler}
	if kind == "flood" {
		listener = listenApart(listener)
		web = floodServer(handler)
	}
	go func() { _ = web.Serve(listener) }()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// BenchmarkPut compares the relay, which stores on disk with synchronous=FULL,
// with a server that checks the same signatures with fclient and does nothing
// else: 5 PDUs of 1.5 KB, 64 connections, client and server in two processes.
// Only the ratio counts; both are measured in turn.
func BenchmarkPut(b *testing.B) {
	const connections, each = 64, 100
	requests := signedPuts(b, connections, each)
	var verify, keep time.Duration
	for range b.N {
		verify += putRound(b, "verify", requests)
		keep += putRound(b, "relay", requests)
	}
	count := float64(b.N * connections * each)
	b.ReportMetric(count/verify.Seconds(), "verify/s")
	b.ReportMetric(count/keep.Seconds(), "relay/s")
	b.ReportMetric(verify.Seconds()/keep.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

// An unprovenStore keeps no proofs of origin.
type unprovenStore struct{ *sqlite.Store }

func (s unprovenStore) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	mail.Proof = nil
	return s.Store.Put(ctx, mail, limits)
}

// BenchmarkPutProof compares the processor time that a PUT takes with the time that
// it takes when its proof of origin isn't stored. Making the proof is measured by
// BenchmarkProofOf in package wire.
func BenchmarkPutProof(b *testing.B) { comparePuts(b, "relay", "unproven") }

// BenchmarkPutPolicy compares the processor time that a PUT takes with the time that it
// takes without limits by address and by name and without the mode open.
func BenchmarkPutPolicy(b *testing.B) { comparePuts(b, "limited", "claimed") }

// BenchmarkPutRecords compares the processor time that a PUT takes where all destinations have
// relay records with the time that it takes where the relay keeps no records.
func BenchmarkPutRecords(b *testing.B) { comparePuts(b, "records", "unrecorded") }

// bringRecords has a relay with that store keep a record of each destination.
func bringRecords(mail store.Store) (err error) {
	server, err := relay.New(relay.Config{ServerName: relayName, Store: mail})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	for i := range benchDestinations {
		by := relaytest.NewNode(fmt.Sprint("destination", i))
		record, err := wire.SignRelayRecord(wire.RelayRecord{
			Seq: 1, Relays: []wire.RecordRelay{{Name: relayName}},
		}, by.SigningIdentity)
		if err != nil {
			return err
		}
		request, err := by.Request(http.MethodPut, relayName, wire.RelaysURI(by.ServerName), json.RawMessage(record.JSON()))
		if err != nil {
			return err
		}
		answer := httptest.NewRecorder()
		server.ServeHTTP(answer, request)
		if answer.Code != http.StatusOK {
			return fmt.Errorf("%d %s", answer.Code, answer.Body)
		}
	}
	return nil
}

// comparePuts compares the processor time of two kinds of server. They take turns every
// few requests, so that both meet the same machine.
func comparePuts(b *testing.B, kind, other string) {
	const connections, each = 64, 100
	requests := signedPuts(b, connections, each)
	var with, without time.Duration
	for range b.N {
		servers := [2]*puts{startPuts(b, other, connections), startPuts(b, kind, connections)}
		for turn := range each / turnPuts {
			servers[turn%2].put(requests, turn)
			servers[1-turn%2].put(requests, turn)
		}
		without += servers[0].end()
		with += servers[1].end()
	}
	count := float64(b.N * connections * each)
	b.ReportMetric(float64(with.Microseconds())/count, "µs/with")
	b.ReportMetric(float64(without.Microseconds())/count, "µs/without")
	b.ReportMetric(with.Seconds()/without.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

// turnPuts is how many requests of each connection a server gets before it's the other's turn.
const turnPuts = 5

// puts goes to a server in another process.
type puts struct {
	testing.TB
	server      *exec.Cmd
	input       io.Closer
	connections []*putConnection
}

func startPuts(b *testing.B, kind string, connections int) *puts {
	p := &puts{TB: b}
	var address string
	p.server, p.input, address = startServer(b, kind)
	for range connections {
		c, err := dialPuts(address)
		require.NoError(b, err)
		p.connections = append(p.connections, c)
	}
	return p
}

// put sends a turn of each connection's requests.
func (p *puts) put(requests [][][]byte, turn int) {
	var all sync.WaitGroup
	for i, c := range p.connections {
		all.Go(func() {
			if err := c.put(requests[i][turn*turnPuts : (turn+1)*turnPuts]); err != nil {
				p.Error(err)
			}
		})
	}
	all.Wait()
}

// end returns the processor time that the server took.
func (p *puts) end() time.Duration {
	for _, c := range p.connections {
		require.NoError(p, c.Close())
	}
	require.NoError(p, p.input.Close())
	require.NoError(p, p.server.Wait())
	return p.server.ProcessState.UserTime() + p.server.ProcessState.SystemTime()
}

// benchPolicy has limits that are never reached, and the mode open in which all
// destinations have claimed their mailboxes.
func benchPolicy(mail store.Store) (policy.Policy, error) {
	rate := policy.Rate{PerSecond: 1 << 30, Burst: 1 << 40}
	shares := policy.Shares{Requests: rate, Bytes: rate, Stored: rate, UnderWay: 1000}
	open, err := policy.NewOpen(policy.OpenConfig{Store: mail, Claims: rate})
	if err != nil {
		return nil, err
	}
	for i := range benchDestinations {
		name := benchDestination(i)
		err := open.Admit(context.Background(), &policy.Request{
			Stage: policy.Signed, Endpoint: wire.RelayTxn, Origin: name, Destination: name,
		})
		if err != nil {
			return nil, err
		}
	}
	return policy.All(policy.NewLimits(policy.LimitsConfig{Address: shares, Name: shares}), open), nil
}

const benchDestinations = 16

func benchDestination(i int) spec.ServerName {
	return relaytest.NewNode(fmt.Sprint("destination", i)).ServerName
}

// signedPuts makes the bytes of each connection's requests.
func signedPuts(b *testing.B, connections, each int) [][][]byte {
	requests := make([][][]byte, connections)
	var all sync.WaitGroup
	for c := range requests {
		requests[c] = make([][]byte, each)
		all.Go(func() {
			origin := relaytest.NewNode(fmt.Sprint("origin", c))
			for i := range each {
				to := benchDestination(i % benchDestinations)
				t := origin.Transaction(to, fmt.Sprintf("%d-%d", c, i), 5, 1500)
				r, err := origin.Request(http.MethodPut, relayName, "/_matrix/federation/v1/send_relay/"+string(t.TransactionID)+"/@user:"+string(to), t)
				if err != nil {
					b.Error(err)
					return
				}
				r.Host = relayName
				var out bytes.Buffer
				if err := r.Write(&out); err != nil {
					b.Error(err)
				}
				requests[c][i] = out.Bytes()
			}
		})
	}
	all.Wait()
	return requests
}

// startServer starts this program again as a server, which ends when input is closed.
func startServer(b *testing.B, kind string) (server *exec.Cmd, input io.Closer, address string) {
	server = exec.Command(os.Args[0])
	server.Env = append(os.Environ(), benchServer+"="+kind, benchDatabase+"="+filepath.Join(b.TempDir(), "relay.db"))
	server.Stderr = os.Stderr
	input, err := server.StdinPipe()
	require.NoError(b, err)
	output, err := server.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, server.Start())
	address, err = bufio.NewReader(output).ReadString('\n')
	require.NoError(b, err)
	return server, input, address[:len(address)-1]
}

// putRound sends all requests to a fresh server, which must answer 200 to
// each.
// putRound is how long a server of that kind takes for all requests.
func putRound(b *testing.B, kind string, requests [][][]byte) time.Duration {
	server, input, address := startServer(b, kind)
	start := time.Now()
	var all sync.WaitGroup
	for _, mine := range requests {
		all.Go(func() {
			c, err := dialPuts(address)
			if err == nil {
				err = errors.Join(c.put(mine), c.Close())
			}
			if err != nil {
				b.Error(err)
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	require.NoError(b, input.Close())
	require.NoError(b, server.Wait())
	return took
}

// A putConnection sends bytes that were made before, so that it takes little time itself.
type putConnection struct {
	net.Conn
	in *bufio.Reader
}

func dialPuts(address string) (*putConnection, error) {
	conn, err := net.Dial("tcp", address)
	return &putConnection{conn, bufio.NewReader(conn)}, err
}

func (c *putConnection) put(requests [][]byte) error {
	for _, request := range requests {
		if _, err := c.Write(request); err != nil {
			return err
		}
		response, err := http.ReadResponse(c.in, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
	}
	return nil
}

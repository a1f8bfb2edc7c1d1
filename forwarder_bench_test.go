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
		verify += putRound(b, "verify", requests).took
		keep += putRound(b, "relay", requests).took
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

// comparePuts compares the processor time of two kinds of server, in turn.
func comparePuts(b *testing.B, kind, other string) {
	const connections, each = 64, 100
	requests := signedPuts(b, connections, each)
	var with, without time.Duration
	for range b.N {
		without += putRound(b, other, requests).cpu
		with += putRound(b, kind, requests).cpu
	}
	count := float64(b.N * connections * each)
	b.ReportMetric(float64(with.Microseconds())/count, "µs/with")
	b.ReportMetric(float64(without.Microseconds())/count, "µs/without")
	b.ReportMetric(with.Seconds()/without.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
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

// A round is how long it took, and the server's processor time.
type round struct{ took, cpu time.Duration }

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
func putRound(b *testing.B, kind string, requests [][][]byte) round {
	server, input, address := startServer(b, kind)
	start := time.Now()
	var all sync.WaitGroup
	for _, mine := range requests {
		all.Go(func() {
			if err := putAll(address, mine); err != nil {
				b.Error(err)
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	require.NoError(b, input.Close())
	require.NoError(b, server.Wait())
	return round{took, server.ProcessState.UserTime() + server.ProcessState.SystemTime()}
}

func putAll(address string, requests [][]byte) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	for _, request := range requests {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		response, err := http.ReadResponse(in, nil)
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

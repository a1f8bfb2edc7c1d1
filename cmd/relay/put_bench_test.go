package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/internal/checkonly"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// benchProfiles in the environment is a directory for the processor profiles of
// the servers that are measured.
const benchProfiles = "RELAY_BENCH_PROFILES"

func init() {
	programs["profiled"] = func() { profiled(func() int { return run(os.Args[1:], os.Stdout, os.Stderr) }) }
	programs["fclient"] = func() { profiled(serveFclient) }
}

// profiled runs a program, and writes its profile if one is asked for.
func profiled(program func() int) {
	directory := os.Getenv(benchProfiles)
	if directory == "" {
		os.Exit(program())
	}
	out, err := os.Create(filepath.Join(directory, fmt.Sprintf("%s-%d.pprof", os.Getenv(asProgram), os.Getpid())))
	if err == nil {
		err = pprof.StartCPUProfile(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := program()
	pprof.StopCPUProfile()
	if err := out.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// serveFclient is a server that only checks signatures, with fclient. A request
// to its root ends it.
func serveFclient() int {
	logrus.SetOutput(io.Discard)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "msg=listening address=%s\n", listener.Addr())
	ended := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(http.ResponseWriter, *http.Request) { close(ended) })
	mux.HandleFunc("/", checkonly.Handler(relayName, relay.HexKeys{}))
	go func() { _ = http.Serve(listener, mux) }()
	<-ended
	return 0
}

// BenchmarkStoredPut compares the processor time that this program takes for a
// PUT, from the connection to the disk, with that of a server that only checks
// the same signatures with fclient. The client is net/http's, with 64
// connections that it keeps; a transaction has 5 encrypted PDUs of 1.5 KB. The
// relay has the policy that operators get, and the destinations have asked it for
// their mail.
func BenchmarkStoredPut(b *testing.B) {
	const connections, each = 64, 100
	var check, stored time.Duration
	for range b.N {
		puts := encryptedPuts(b, connections, each)
		check += putsTo(b, "fclient", puts)
		stored += putsTo(b, "profiled", puts)
	}
	count := float64(b.N * connections * each)
	b.ReportMetric(float64(check.Microseconds())/count, "µs/fclient")
	b.ReportMetric(float64(stored.Microseconds())/count, "µs/stored")
	b.ReportMetric(check.Seconds()/stored.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

const benchDestinations = 16

func benchDestination(i int) *relaytest.Node { return relaytest.NewNode(fmt.Sprint("destination", i)) }

// A signedPut is made before the time counts.
type signedPut struct {
	uri, authorization string
	body               []byte
}

func encryptedPuts(b *testing.B, connections, each int) [][]signedPut {
	all := make([][]signedPut, connections)
	for c := range all {
		origin := relaytest.NewNode(fmt.Sprint("origin", c))
		for i := range each {
			to := benchDestination(i % benchDestinations).ServerName
			t := origin.Transaction(to, fmt.Sprintf("%d-%d", c, i), 0, 0)
			for range 5 {
				t.PDUs = append(t.PDUs, encryptedPDU(origin.ServerName))
			}
			r, err := origin.Request(http.MethodPut, relayName, "/_matrix/federation/v1/send_relay/"+string(t.TransactionID)+"/@user:"+string(to), t)
			require.NoError(b, err)
			body, err := io.ReadAll(r.Body)
			require.NoError(b, err)
			all[c] = append(all[c], signedPut{r.URL.RequestURI(), r.Header.Get("Authorization"), body})
		}
	}
	return all
}

// putsTo sends all to a server, which must answer 200 to each, and returns the
// server's processor time.
func putsTo(b *testing.B, kind string, puts [][]signedPut) time.Duration {
	p := launchCommand(b, commandOf(os.Args[0], kind, []string{"serve", "--listen", "127.0.0.1:0", "--name", string(relayName), "--db", database(b), "--origin-share", "1"}))
	p.waitReady()
	web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: len(puts)}}
	if kind != "fclient" {
		for i := range benchDestinations {
			askForMail(b, web, p.address, benchDestination(i))
		}
	}
	var all sync.WaitGroup
	for _, mine := range puts {
		all.Go(func() {
			for _, one := range mine {
				if err := sendPut(web, p.address, one); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	web.CloseIdleConnections()
	if kind == "fclient" {
		answer, err := http.Get("http://" + p.address)
		require.NoError(b, errors.Join(err, answer.Body.Close()))
		require.Equal(b, 0, p.status(), p.logged())
	} else {
		p.stop()
	}
	state := p.command.ProcessState
	return state.UserTime() + state.SystemTime()
}

// askForMail claims a mailbox.
func askForMail(b *testing.B, web *http.Client, address string, owner *relaytest.Node) {
	r, err := owner.Request(http.MethodGet, relayName, wire.RelayTxnURI(relaytest.User(owner.ServerName)), fclient.RelayEntry{})
	require.NoError(b, err)
	require.NoError(b, sendSigned(web, address, r))
}

func sendPut(web *http.Client, address string, put signedPut) error {
	request, err := http.NewRequest(http.MethodPut, put.uri, bytes.NewReader(put.body))
	if err != nil {
		return err
	}
	request.Header = http.Header{"Authorization": {put.authorization}, "Content-Type": {"application/json"}}
	return sendSigned(web, address, request)
}

// sendSigned sends a request, whose answer must be 200.
func sendSigned(web *http.Client, address string, request *http.Request) error {
	request.URL.Scheme, request.URL.Host = "http", address
	answer, err := web.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return errors.Join(err, answer.Body.Close())
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/internal/freeport"
	"github.com/matrixrelay/relay/relaytest"
)

// TestREADME has README's first program be this one.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	program, err := os.ReadFile("main.go")
	require.NoError(t, err)
	_, block, found := strings.Cut(string(readme), "```go\n")
	require.True(t, found)
	block, _, _ = strings.Cut(block, "```\n")
	require.Equal(t, string(program), block)
}

// A logged keeps the log of the program.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) find(pattern string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return regexp.MustCompile(pattern).FindStringSubmatch(l.text.String())
}

// TestProgram runs the program: it takes mail for another server, fetches its own,
// and ends when it is interrupted.
func TestProgram(t *testing.T) {
	t.Chdir(t.TempDir())
	port := freeport.Find(t, 1)[0]
	web.Addr = fmt.Sprint("127.0.0.1:", port)
	network := relaytest.NewNetwork()
	defer func() { require.NoError(t, network.Close()) }()
	asked := make(chan spec.ServerName, 1)
	_, err := network.AddRelay(relay.Config{ServerName: "relay.example.org", Asked: func(s spec.ServerName) {
		select {
		case asked <- s:
		default:
		}
	}})
	require.NoError(t, err)
	transport = network
	said := &logged{}
	log.SetOutput(said)
	defer log.SetOutput(os.Stderr)

	ended := make(chan struct{})
	go func() { defer close(ended); main() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	me := <-asked
	alice := relaytest.NewNode("alice")
	caller, err := client.NewCaller(client.CallerConfig{Identity: alice.SigningIdentity, Transport: network})
	require.NoError(t, err)
	made, err := client.NewTransaction(alice.Transaction(me, "1", 1, 100))
	require.NoError(t, err)
	require.NoError(t, caller.Send(ctx, "relay.example.org", made))
	network.Set(me, relaytest.Host{Address: web.Addr})
	forBob, err := client.NewTransaction(alice.Transaction(relaytest.NewNode("bob").ServerName, "2", 1, 100))
	require.NoError(t, err)
	for caller.Send(ctx, me, forBob) != nil { // until it listens
		require.NoError(t, ctx.Err())
	}
	for said.find(`through relay\.example\.org from ([0-9a-f]{64}): \{`) == nil {
		require.NoError(t, ctx.Err())
		time.Sleep(10 * time.Millisecond)
	}
	require.Equal(t, string(alice.ServerName), said.find(`from (\S+):`)[1])
	network.CloseIdleConnections()
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGINT))
	<-ended
	require.NotNil(t, said.find(http.ErrServerClosed.Error()))
}

package dendrite_test

import (
	"context"
	"fmt"
	"log"
	"sync"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/dendrite"
	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/store/memory"
)

// A processContext stands for Dendrite's *process.ProcessContext.
type processContext struct {
	ctx context.Context
	sync.WaitGroup
}

func (p *processContext) Context() context.Context { return p.ctx }
func (p *processContext) ComponentStarted()        { p.Add(1) }
func (p *processContext) ComponentFinished()       { p.Done() }

func Example() {
	// A network with a relay, which has mail for bob.
	network := relaytest.NewNetwork()
	if _, err := network.AddRelay(relay.Config{ServerName: "relay.example"}); err != nil {
		log.Fatal(err)
	}
	alice, bob := relaytest.NewNode("alice"), relaytest.NewNode("bob")
	_, err := alice.Federation(network).P2PSendTransactionToRelay(context.Background(),
		relaytest.User(bob.ServerName), alice.Transaction(bob.ServerName, "1", 2, 300), "relay.example")
	if err != nil {
		log.Fatal(err)
	}

	// The parts that bob's homeserver has already.
	root := mux.NewRouter().SkipClean(true).UseEncodedPath()
	federation := root.PathPrefix("/_matrix/federation/").Subrouter().SkipClean(true).UseEncodedPath()
	ctx, stop := context.WithCancel(context.Background())
	process := &processContext{ctx: ctx}
	mail := memory.New(memory.Options{}) // store/sqlite keeps it on the disk
	processed := make(chan struct{})

	mounted, err := dendrite.Start(dendrite.Config{
		Router: federation, Process: process, Store: mail, RelayingEnabled: true,
		Identity: bob.SigningIdentity, Keys: relaytest.Keys(), Client: bob.Federation(network),
		RelaysOf: func(context.Context, spec.ServerName) ([]spec.ServerName, error) {
			return []spec.ServerName{"relay.example"}, nil
		},
		Transact: func(_ context.Context, t gomatrixserverlib.Transaction) (*fclient.RespSend, *util.JSONResponse) {
			fmt.Println("transaction", t.TransactionID, "with", len(t.PDUs), "events")
			close(processed)
			return &fclient.RespSend{}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("relaying:", mounted.RelayingEnabled())

	<-processed
	stop()
	process.Wait() // as base.WaitForShutdown does
	if err := network.Close(); err != nil {
		log.Fatal(err)
	}
	if err := mail.Close(); err != nil {
		log.Fatal(err)
	}
	// Unordered output:
	// relaying: true
	// transaction 1 with 2 events
}

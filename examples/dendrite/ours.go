package main

import (
	"context"
	"path/filepath"

	"github.com/matrix-org/dendrite/federationapi/api"
	"github.com/matrix-org/dendrite/federationapi/producers"
	"github.com/matrix-org/dendrite/internal"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/dendrite"
	"github.com/matrixrelay/relay/store/sqlite"
)

// startOurs has this project's relay and client in the server.
func (n *node) startOurs() error {
	mail, err := sqlite.Open(filepath.Join(n.options.dir, "mail.db"), sqlite.Options{})
	if err != nil {
		return err
	}
	n.endRelay = mail.Close
	queue, _, err := n.cm.Connection(&n.config.RelayAPI.Database)
	if err != nil {
		return err
	}
	if _, err := dendrite.ImportQueue(n.process.Context(), queue, mail, dendrite.ImportOptions{}); err != nil {
		return err
	}
	_, err = dendrite.Start(dendrite.Config{
		Router: n.routers.Federation, Process: n.process, Store: mail, RelayingEnabled: n.options.relaying,
		Identity: n.config.Global.SigningIdentity, Keys: n.monolith.KeyRing, Client: n.client,
		IsLocalServerName: n.config.Global.IsLocalServerName,
		Transact:          n.transact(), RelaysOf: n.relaysOf, WakeUp: n.wakeUp,
		Adjust: func(_ *relay.Config, node *client.NodeConfig) {
			node.Receiver.RequireProof = n.options.requireProof
		},
	})
	return err
}

// transact has Dendrite process a transaction.
func (n *node) transact() func(context.Context, gomatrixserverlib.Transaction) (*fclient.RespSend, *util.JSONResponse) {
	global, rooms, producer := &n.config.Global, internal.NewMutexByRoom(), n.producer()
	return func(ctx context.Context, t gomatrixserverlib.Transaction) (*fclient.RespSend, *util.JSONResponse) {
		request := internal.NewTxnReq(n.monolith.RoomserverAPI, n.monolith.UserAPI, global.ServerName, n.monolith.KeyRing,
			rooms, producer, global.Presence.EnableInbound, t.PDUs, t.EDUs, t.Origin, t.TransactionID, t.Destination)
		return request.ProcessTransaction(ctx)
	}
}

// producer takes the EDUs.
func (n *node) producer() *producers.SyncAPIProducer {
	settings := &n.config.Global.JetStream
	js, _ := n.nats.Prepare(n.process, settings)
	return &producers.SyncAPIProducer{
		JetStream: js, Config: &n.config.FederationAPI, UserAPI: n.monolith.UserAPI,
		TopicReceiptEvent:      settings.Prefixed(jetstream.OutputReceiptEvent),
		TopicSendToDeviceEvent: settings.Prefixed(jetstream.OutputSendToDeviceEvent),
		TopicTypingEvent:       settings.Prefixed(jetstream.OutputTypingEvent),
		TopicPresenceEvent:     settings.Prefixed(jetstream.OutputPresenceEvent),
		TopicDeviceListUpdate:  settings.Prefixed(jetstream.InputDeviceListUpdate),
		TopicSigningKeyUpdate:  settings.Prefixed(jetstream.InputSigningKeyUpdate),
	}
}

func (n *node) relaysOf(ctx context.Context, server spec.ServerName) ([]spec.ServerName, error) {
	var known api.P2PQueryRelayServersResponse
	err := n.monolith.FederationAPI.P2PQueryRelayServers(ctx, &api.P2PQueryRelayServersRequest{Server: server}, &known)
	return known.RelayServers, err
}

// wakeUp has Dendrite's queues try a server at once.
func (n *node) wakeUp(server spec.ServerName) {
	_ = n.monolith.FederationAPI.PerformWakeupServers(n.process.Context(), // it never fails
		&api.PerformWakeupServersRequest{ServerNames: []spec.ServerName{server}}, &api.PerformWakeupServersResponse{})
}

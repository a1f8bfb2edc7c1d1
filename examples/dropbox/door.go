package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// open lets other nodes in, and has place say where.
func (n *node) open(place func(spec.ServerName, string)) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /_matrix/federation/v1/send/{txnID}", n.takeDirectly)
	web := &http.Server{Handler: mux, ReadHeaderTimeout: answerTimeout}
	n.closers = append(n.closers, web)
	go func() { _ = web.Serve(listener) }() // ends with Close
	n.address = listener.Addr().String()
	place(n.ServerName, n.address)
	return nil
}

// takeDirectly is the federation API's way to send a transaction.
func (n *node) takeDirectly(w http.ResponseWriter, r *http.Request) {
	signed, refusal := fclient.VerifyHTTPRequest(r, time.Now(), n.ServerName, nil, wire.HexKeys{})
	if signed == nil {
		(&wire.Error{Status: refusal.Code, Code: spec.ErrorUnknown}).Write(w)
		return
	}
	id := gomatrixserverlib.TransactionID(r.PathValue("txnID"))
	got := arrival{id: known(id)}
	got.handled, got.err = n.Direct(r.Context(), signed.Origin(), id, signed.Content(), func(ctx context.Context) error {
		if got.id == record {
			return nil // which Direct has read
		}
		return n.inbox.take(ctx, signed.Origin(), signed.Content())
	})
	n.arrivals <- got
	if got.err != nil {
		(&wire.Error{Status: http.StatusInternalServerError, Code: spec.ErrorUnknown}).Write(w)
		return
	}
	_, _ = io.WriteString(w, `{"pdus":{}}`) // the client may have gone
}

// An arrival is a transaction that came directly. It is handled unless it was
// before.
type arrival struct {
	id      gomatrixserverlib.TransactionID
	handled bool
	err     error
}

// expectArrival waits for the next direct arrival, which must be this.
func (n *node) expectArrival(ctx context.Context, want arrival) error {
	select {
	case got := <-n.arrivals:
		if got.err != nil {
			return fmt.Errorf("%s came to %s directly and could not be handled: %w", got.id, n.name, got.err)
		}
		if got.id != want.id || got.handled != want.handled {
			return fmt.Errorf("%s came to %s directly (handled: %t), and not %s (handled: %t)", got.id, n.name, got.handled, want.id, want.handled)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s: %w", want.id, ctx.Err())
	}
}

package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/matrix-org/dendrite/cmd/dendrite-demo-yggdrasil/signing"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// identityOf is a server of a P2P network, whose name is its key in hex.
func identityOf(seed string) fclient.SigningIdentity {
	key := ed25519.NewKeyFromSeed(fmt.Appendf(nil, "%-32.32s", seed))
	return fclient.SigningIdentity{
		ServerName: spec.ServerName(hex.EncodeToString(key.Public().(ed25519.PublicKey))),
		KeyID:      signing.KeyID, PrivateKey: key,
	}
}

func nameOf(seed string) spec.ServerName { return identityOf(seed).ServerName }

// A network is a folder in which each server listens at a socket.
type network string

// socket is short, since paths of sockets must be.
func (n network) socket(server string) string {
	return filepath.Join(string(n), fmt.Sprintf("%.12s", server))
}

func (n network) listen(server spec.ServerName) (net.Listener, error) {
	socket := n.socket(string(server))
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		return nil, err
	}
	return net.Listen("unix", socket)
}

// transport brings requests for matrix://server to it.
func (n network) transport() http.RoundTripper {
	web := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		server, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, "unix", n.socket(server))
	}}
	return matrixTransport{web}
}

type matrixTransport struct{ web *http.Transport }

// RoundTrip implements http.RoundTripper.
func (t matrixTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme = "http"
	return t.web.RoundTrip(out)
}

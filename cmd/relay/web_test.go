package main

import (
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/bounded"
)

// Strangers that reach the operator's servers can't take all files of the relay.
func TestOperatorConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newOperatorServer(inner, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	defer func() { require.NoError(t, s.listener.Close()) }()
	for range operatorConnections + 10 {
		conn, err := net.Dial("tcp", s.address())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }() // most are closed by then
		accepted, err := s.listener.Accept()
		require.NoError(t, err)
		defer func() { _ = accepted.Close() }()
	}
	listener, ok := s.listener.(*bounded.Listener)
	require.True(t, ok)
	require.LessOrEqual(t, listener.Open(), operatorConnections)
}

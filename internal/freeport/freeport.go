// Package freeport finds ports for the servers of tests.
package freeport

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// Find returns ports of loopback that were free a moment ago.
func Find(tb testing.TB, n int) (ports []int) {
	tb.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(tb, err)
		defer func() { require.NoError(tb, l.Close()) }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

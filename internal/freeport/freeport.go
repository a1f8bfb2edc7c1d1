// Package freeport finds ports for the servers of tests.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Systems give connections ports above these, and a server that is killed must
// find its port free when it is started again.
const first, last = 10_000, 30_000

// Find returns ports of loopback that nobody listens at.
func Find(tb testing.TB, n int) (ports []int) {
	tb.Helper()
	for range 1000 {
		if len(ports) == n {
			return ports
		}
		port := first + rand.IntN(last-first)
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			continue
		}
		defer func() { _ = l.Close() }() // it took no connection
		ports = append(ports, port)
	}
	tb.Fatal("no port is free")
	return nil
}

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

// Find returns TCP ports of loopback that nobody listens at. Until the test ends
// they are given to no other, in this process or another one, whether a server
// listens or is being started again.
func Find(tb testing.TB, n int) (ports []int) {
	tb.Helper()
	for range 1000 {
		if len(ports) == n {
			return ports
		}
		if port := first + rand.IntN(last-first); claim(tb, port) {
			ports = append(ports, port)
		}
	}
	tb.Fatal("no port is free")
	return nil
}

// claim reports whether the port is free, and now the test's. The test that has the UDP
// port of the same number, which no server uses, has claimed it.
func claim(tb testing.TB, port int) bool {
	tb.Helper()
	address := fmt.Sprint("127.0.0.1:", port)
	mine, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		_ = mine.Close() // nothing was sent to it
		return false
	}
	_ = l.Close() // it took no connection
	tb.Cleanup(func() { _ = mine.Close() })
	return true
}

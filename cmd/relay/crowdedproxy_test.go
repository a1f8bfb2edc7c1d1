package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/relaytest"
	"github.com/matrixrelay/relay/wire"
)

// TestProxiesBoundAddresses: the proxies that contrib has a configuration for leave places
// for others when one address has many requests, whose bodies don't come.
func TestProxiesBoundAddresses(t *testing.T) {
	cell := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // until the client goes, if it doesn't come
	}))
	t.Cleanup(cell.Close)
	cells := [2]string{cell.Listener.Addr().String(), cell.Listener.Addr().String()}
	eachCellProxy(t, cells, func(p *cellProxy) {
		const most = 256
		for range most {
			_, err := p.begin("127.0.0.2", "")
			require.NoError(p, err)
		}
		p.awaitRefusal("127.0.0.2", "")
		require.Equal(p, http.StatusOK, p.statusFor("127.0.0.3", ""))
		if !p.believes {
			return
		}
		for i := range most {
			_, err := p.begin("127.0.0.4", fmt.Sprintf("2001:db8:a0a:a0a:%x::a0a", i))
			require.NoError(p, err)
		}
		p.awaitRefusal("127.0.0.4", "2001:db8:a0a:a0a::1")
		require.Equal(p, http.StatusOK, p.statusFor("127.0.0.4", "2001:db8:a0a:a0b::1"))
		require.Equal(p, http.StatusOK, p.statusFor("127.0.0.4", "10.10.10.10"))
	})
}

// begin makes a connection from an address on which a body doesn't come. It says that it is
// from another, unless that is empty.
func (p *cellProxy) begin(from, claimed string) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := dialer.DialContext(p.Context(), "tcp", p.address)
	if err != nil {
		return nil, err
	}
	p.Cleanup(func() { _ = c.Close() })
	uri := wire.SendRelayURI("1", relaytest.User("b.example"))
	_, _ = fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: relay\r\nTest-Address: %s\r\nContent-Length: 10\r\n\r\n", uri, claimed) // it may be closed by now
	return c, nil
}

// awaitRefusal waits until an address is refused, once the proxy has counted all that began.
func (p *cellProxy) awaitRefusal(from, claimed string) {
	p.Helper()
	isRefused := func() bool {
		return slices.Contains([]int{0, http.StatusTooManyRequests}, p.statusFor(from, claimed))
	}
	require.Eventually(p, isRefused, patience, 10*time.Millisecond)
}

// statusFor is the status of an answer to an address, 0 if there was none.
func (p *cellProxy) statusFor(from, claimed string) int {
	c, err := p.begin(from, claimed)
	if err != nil {
		return 0 // a proxy may close it before it is made
	}
	_, _ = fmt.Fprint(c, "0123456789")
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	_ = response.Body.Close() // all of it was read with the head, or isn't wanted
	return response.StatusCode
}

package relay_test

import (
	"net"
	"net/http"
	"net/netip"

	"github.com/matrixrelay/relay/bounded"
)

// apart has each address of loopback be one of its own: 127.0.0.2 is 192.0.2.2.
func apart(remote string) netip.Addr {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	four := at.Addr().Unmap().As4()
	return netip.AddrFrom4([4]byte{192, 0, 2, four[3]})
}

func clientApart(r *http.Request) netip.Addr { return apart(r.RemoteAddr) }

func listenApart(l net.Listener) net.Listener {
	return bounded.Listen(l, bounded.Options{Address: func(c net.Conn) netip.Addr { return apart(c.RemoteAddr().String()) }})
}

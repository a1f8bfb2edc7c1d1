package relay_test

import (
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/bounded"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
)

// floodConfig is the relay that operators get.
func floodConfig(mail store.Store) (relay.Config, error) {
	open, err := policy.NewOpen(policy.OpenConfig{Store: mail})
	if err != nil {
		return relay.Config{}, err
	}
	owners, err := policy.NewOwners(policy.OwnersConfig{Store: mail, Mode: open})
	return relay.Config{
		ServerName: relayName, Store: mail,
		Policy: policy.All(policy.NewLimits(policy.LimitsConfig{}), owners),
	}, err
}

const maxStreams = 64 // of one HTTP/2 connection

// floodServer is the server that the program relay has, with HTTP/2 without TLS.
func floodServer(handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: apartHandler(handler), Protocols: protocols, ConnContext: relay.ConnContext,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: 256 << 10, MaxReceiveBufferPerStream: 128 << 10},
	}
}

// apart has each address of loopback be one of its own: 127.0.1.2 is 198.18.1.2.
func apart(remote string) netip.Addr {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	four := at.Addr().Unmap().As4()
	return netip.AddrFrom4([4]byte{198, 18, four[2], four[3]})
}

func apartHandler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = netip.AddrPortFrom(apart(r.RemoteAddr), 1).String()
		next.ServeHTTP(w, r)
	})
}

func listenApart(l net.Listener) net.Listener {
	return bounded.Listen(l, bounded.Options{Unused: 256 << 10, Address: func(c net.Conn) netip.Addr { return apart(c.RemoteAddr().String()) }})
}

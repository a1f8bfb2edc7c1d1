package jetstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/storetest"
)

// startServers starts a cluster in this process.
func startServers(t *testing.T, size int) (servers []*server.Server) {
	t.Helper()
	ports := freePorts(t, size)
	routes := routesTo(ports)
	for i := range size {
		s := startServer(t, func(o *server.Options) {
			o.ServerName = fmt.Sprint("n", i)
			o.Cluster = server.ClusterOpts{Name: "relays", Host: "127.0.0.1", Port: ports[i]}
			o.Routes = routes
		})
		servers = append(servers, s)
	}
	require.Eventually(t, func() bool {
		for _, s := range servers {
			if !s.ReadyForConnections(time.Second) || !s.JetStreamIsCurrent() {
				return false
			}
		}
		return true
	}, time.Minute, 10*time.Millisecond)
	return servers
}

func routesTo(ports []int) (routes []*url.URL) {
	for _, port := range ports {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", port)})
	}
	return routes
}

func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// The suite on three servers, each store connected to another one.
func TestStoreOfThree(t *testing.T) {
	t.Parallel()
	servers := startServers(t, 3)
	admin := open(t, testOptions(servers[0]))
	t.Cleanup(func() { require.NoError(t, admin.Close()) })
	var places, opened atomic.Int64
	storetest.Run(t, func(tb testing.TB) storetest.Place {
		stream := fmt.Sprint("RELAY", places.Add(1))
		place := storetest.Place{
			Shared: true,
			Open: func(tb testing.TB, retention time.Duration) store.Store {
				o := testOptions(servers[opened.Add(1)%3])
				o.Stream, o.Retention = stream, retention
				return open(tb, o)
			},
		}
		tb.Cleanup(func() {
			if err := admin.engine.js.DeleteStream(context.Background(), stream); !errors.Is(err, jetstream.ErrStreamNotFound) {
				require.NoError(tb, err)
			}
		})
		return place
	})
}

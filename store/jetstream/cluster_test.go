package jetstream

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/freeport"
)

// startServers starts a cluster in this process.
func startServers(t testing.TB, size int, change func(*server.Options)) (servers []*server.Server) {
	t.Helper()
	ports := freeport.Find(t, size)
	routes := routesTo(ports)
	for i := range size {
		s := startServer(t, func(o *server.Options) {
			if change != nil {
				change(o)
			}
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
	}, patience, 10*time.Millisecond)
	return servers
}

func routesTo(ports []int) (routes []*url.URL) {
	for _, port := range ports {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", port)})
	}
	return routes
}

// The suite on three servers, each store connected to another one.
func TestStoreOfThree(t *testing.T) {
	if testing.Short() {
		t.Skip("the whole suite again, with the same code of ours")
	}
	t.Parallel()
	runSuite(t, startServers(t, 3, nil)...)
}

package relay_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"

	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/sqlite"
)

// The files of a store that has some show in the metrics.
func TestMetricsOfFiles(t *testing.T) {
	s, err := sqlite.Open(filepath.Join(t.TempDir(), "relay.db"), sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	registry := prometheus.NewRegistry()
	server, err := relay.New(relay.Config{ServerName: relayName, Store: s, Registerer: registry})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	_, err = s.Put(t.Context(), store.Mail{Destination: "b", Origin: "a", TransactionID: "1", Body: make([]byte, 10_000)}, store.Limits{})
	require.NoError(t, err)
	sizes, err := s.Sizes(t.Context())
	require.NoError(t, err)
	require.Greater(t, sizes.Log, int64(10_000))
	require.NoError(t, testutil.GatherAndCompare(registry, bytes.NewBufferString(fmt.Sprintf(`
# HELP relay_store_file_bytes Size of the store's database file.
# TYPE relay_store_file_bytes gauge
relay_store_file_bytes %v
# HELP relay_store_log_bytes Size of the store's log, which isn't in the database yet.
# TYPE relay_store_log_bytes gauge
relay_store_log_bytes %v
`, float64(sizes.File), float64(sizes.Log))), "relay_store_file_bytes", "relay_store_log_bytes"))
}

// A distrusted store refuses all mail.
type distrusted struct{ store.Store }

func (distrusted) Put(context.Context, store.Mail, store.Limits) (bool, error) {
	return false, fmt.Errorf("disk: %w", store.ErrReopen)
}

// A store that must be reopened has said so once; the relay says nothing more of
// it, however often it is asked.
func TestDistrustIsLoggedOnce(t *testing.T) {
	var said bytes.Buffer
	r := newRig(t, func(c *relay.Config) {
		c.Store = distrusted{c.Store}
		c.Logger = slog.New(slog.NewTextHandler(&said, nil))
	})
	for n := range 3 {
		err := r.send(r.a, r.a.Transaction(r.b.ServerName, fmt.Sprint(n), 1, 100))
		require.Error(t, err)
	}
	require.Empty(t, said.String())
}

package relay_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/store/sqlite"
)

// A sickStore fails or hangs as a test says.
type sickStore struct {
	*memory.Store
	writes      int
	read, write error
	hangs       bool
	stuck       chan struct{} // reading waits for it, whatever its context
	failed      chan struct{}
	failure     error
}

func (s *sickStore) Usage(ctx context.Context, name spec.ServerName) (store.Usage, error) {
	if s.stuck != nil {
		<-s.stuck
	}
	if s.read != nil {
		return store.Usage{}, s.read
	}
	return s.Store.Usage(ctx, name)
}

func (s *sickStore) SetNotes(ctx context.Context, changes []store.Note) error {
	s.writes++
	if s.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	if s.write != nil {
		return s.write
	}
	return s.Store.SetNotes(ctx, changes)
}

func (s *sickStore) Failed() <-chan struct{} { return s.failed }
func (s *sickStore) Failure() error          { return s.failure }

func newSick(t *testing.T) (*sickStore, *relay.Server) {
	s := &sickStore{Store: memory.New(memory.Options{}), failed: make(chan struct{})}
	server, err := relay.New(relay.Config{ServerName: relayName, Store: s, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.NoError(t, s.Close())
	})
	return s, server
}

// probe asks as a supervisor does.
func probe(server *relay.Server, path string) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	server.HealthHandler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer
}

// However often and by how many at once it is asked, the store is asked every 5 seconds.
func TestHealthIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, server := newSick(t)
		for round := 1; round <= 3; round++ {
			var asking sync.WaitGroup
			for range 100 {
				asking.Go(func() { require.NoError(t, server.Health(t.Context())) })
			}
			asking.Wait()
			require.Equal(t, round, s.writes)
			time.Sleep(5 * time.Second)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		s.hangs = true
		for range 100 { // those that go away cost no more
			require.ErrorIs(t, server.Health(gone), context.Canceled)
		}
		synctest.Wait()
		require.Equal(t, 4, s.writes)
	})
}

func TestHealthSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, server := newSick(t)
		disk := errors.New("the disk is gone")
		for _, c := range []struct {
			name   string
			change func()
			want   error
			said   string
			dead   bool
		}{
			{"reading fails", func() { s.read = disk }, disk, "can't read", false},
			{"writing fails", func() { s.read, s.write = nil, disk }, disk, "can't store", false},
			{"the disk is full", func() { s.write = store.ErrFull }, store.ErrFull, "can't store", false},
			{"it hangs", func() { s.hangs = true }, context.DeadlineExceeded, "can't store", false},
			{"it recovers", func() { s.hangs, s.write = false, nil }, nil, "ok", false},
			{"it is switched off", func() { server.SetEnabled(false) }, nil, "switched off", false},
			{"it must be reopened", func() { s.failure = store.ErrReopen }, store.ErrReopen, "must be reopened", true},
		} {
			c.change()
			time.Sleep(5 * time.Second)
			err := server.Health(t.Context())
			ready, alive := probe(server, "/readyz"), probe(server, "/healthz")
			if c.said == "ok" {
				require.NoError(t, err, c.name)
				require.Equal(t, http.StatusOK, ready.Code)
			} else {
				require.Error(t, err, c.name)
				require.Equal(t, http.StatusServiceUnavailable, ready.Code, c.name)
			}
			if c.want != nil {
				require.ErrorIs(t, err, c.want, c.name)
			}
			require.Contains(t, ready.Body.String(), c.said, c.name)
			require.Equal(t, "no-store", ready.Header().Get("Cache-Control"))
			require.Equal(t, c.dead, alive.Code == http.StatusServiceUnavailable, c.name)
		}
	})
}

// A store that hangs in the kernel, where no context ends a call, isn't healthy.
func TestHealthOfStuckStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, server := newSick(t)
		s.stuck = make(chan struct{})
		began := time.Now()
		for range 3 {
			require.ErrorContains(t, server.Health(t.Context()), "hasn't answered")
			require.Less(t, time.Since(began), 6*time.Second)
		}
		close(s.stuck)
		time.Sleep(5 * time.Second)
		require.NoError(t, server.Health(t.Context()))
	})
}

// Close ends a checkup that hangs, and a closed server is neither alive nor ready.
func TestHealthOfClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, server := newSick(t)
		s.hangs = true
		outcome := make(chan error, 1)
		go func() { outcome <- server.Health(t.Context()) }()
		synctest.Wait()
		began := time.Now()
		require.NoError(t, server.Close())
		require.Zero(t, time.Since(began))
		require.ErrorIs(t, <-outcome, context.Canceled)
		require.ErrorContains(t, server.Health(t.Context()), "closed")
		for _, path := range []string{"/healthz", "/readyz"} {
			require.Equal(t, http.StatusServiceUnavailable, probe(server, path).Code)
		}
		require.Equal(t, http.StatusNotFound, probe(server, "/other").Code)
	})
}

// The note of a checkup is on the disk, and a file that was taken away shows.
func TestHealthOfSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.db")
	s, err := sqlite.Open(path, sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	server, err := relay.New(relay.Config{ServerName: relayName, Store: s, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Close()) }()
	require.NoError(t, server.Health(t.Context()))
	notes, err := s.Notes(t.Context(), "relay/health", "", 10)
	require.NoError(t, err)
	require.Len(t, notes, 1)
	require.NoError(t, os.Rename(path, path+"-away"))
	<-s.Failed()
	require.ErrorIs(t, server.Health(t.Context()), store.ErrReopen)
	require.Equal(t, http.StatusServiceUnavailable, probe(server, "/healthz").Code)
	require.Contains(t, probe(server, "/readyz").Body.String(), "taken away")
}

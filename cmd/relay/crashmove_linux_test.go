package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/internal/need"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A movedMailbox is in a relay that runs.
type movedMailbox struct {
	mail    []store.Mail
	source  store.Store
	handler atomic.Pointer[http.Handler] // of the source
	socket  string
}

const (
	movedName = "moves.example"

	// movedPages is how many pages there are: a page has 4 MiB, or one transaction. Each
	// is more than 500 writes.
	movedPages = 6
)

func newMovedMailbox(t *testing.T) *movedMailbox {
	m := &movedMailbox{socket: filepath.Join(t.TempDir(), "s")}
	for i := range movedPages {
		body := fmt.Appendf(nil, `{"pdus":[{"n":%d,"body":"%s"}]}`, i, strings.Repeat("x", 2_200_000))
		content, err := wire.ReadContent(body)
		require.NoError(t, err)
		m.mail = append(m.mail, store.Mail{
			Destination: movedName, Origin: "a.example", TransactionID: gomatrixserverlib.TransactionID(fmt.Sprint("\xff", i)),
			Digest: content.Digest, Body: body, Proof: []byte(`{"x":1}`),
		})
	}
	listener, err := admin.ListenUnix(m.socket)
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*m.handler.Load()).ServeHTTP(w, r) })}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, errors.Join(server.Close(), m.source.Close()))
		require.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
	m.fill(t, "")
	return m
}

// fill has a new relay have all of it.
func (m *movedMailbox) fill(t *testing.T, _ string) {
	if m.source != nil {
		require.NoError(t, m.source.Close())
	}
	m.source = memory.New(memory.Options{})
	for _, one := range m.mail {
		_, err := m.source.Put(t.Context(), one, store.Limits{})
		require.NoError(t, err)
	}
	desk, err := admin.New(admin.Config{Store: m.source, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	handler := desk.Handler()
	m.handler.Store(&handler)
}

// check finds the first mail in the database, and the rest in the relay, without a gap.
func (m *movedMailbox) check(t *testing.T, db string, isDone bool) {
	all, err := opened(t, db)
	require.NoError(t, err)
	moved, left := all[movedName], contents(t, m.source)[movedName]
	for i := range moved {
		require.True(t, assert.ObjectsAreEqual(m.mail[i], moved[i]), "%d in the database", i)
	}
	for i := range left {
		require.True(t, assert.ObjectsAreEqual(m.mail[len(m.mail)-len(left)+i], left[i]), "%d is left", i)
	}
	require.GreaterOrEqual(t, len(moved)+len(left), len(m.mail))
	if isDone {
		require.Len(t, moved, len(m.mail))
		require.Empty(t, left)
	}
}

// TestKillMove kills relay move --destination with SIGKILL, as it is about to write. No mail
// is lost or out of order, and the same command does the rest. RELAY_TOOLS_ROUNDS and
// RELAY_TOOLS_SEED are as for TestKillTools.
func TestKillMove(t *testing.T) {
	skipKillsIfShort(t)
	m := newMovedMailbox(t)
	tool := killedTool{
		strace: need.Program(t, "strace"), from: newToolFixture(t).db, calls: []string{"pwrite64"}, most: movedPages * 500,
		args: []string{"move", "--destination", movedName, "--admin", "unix:" + m.socket}, prepare: m.fill, check: m.check,
	}
	random := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_TOOLS_SEED"), 1))
	for range seeds.Count(t, "RELAY_TOOLS_ROUNDS", 2) {
		tool.round(t, random)
	}
}

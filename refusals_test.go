package relay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store/memory"
)

// flooded has a relay refuse requests for two and a half minutes and returns its log.
func flooded(t *testing.T, p policy.Policy) (log []string) {
	var written bytes.Buffer
	mail := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{
		ServerName: relayName, Store: mail, Policy: p, Logger: slog.New(slog.NewTextHandler(&written, nil)),
	})
	require.NoError(t, err)
	for i := range 15_000 {
		r := httptest.NewRequest(http.MethodPut, "/_matrix/federation/v1/send_relay/1/@user:b", strings.NewReader("{}"))
		r.RemoteAddr = fmt.Sprint("192.0.2.", i%2, ":1234")
		r.Header.Set("Authorization", `X-Matrix origin="stranger",key="ed25519:1",sig="AA"`)
		r.Header.Set("Content-Type", "application/json")
		server.ServeHTTP(httptest.NewRecorder(), r)
		time.Sleep(10 * time.Millisecond)
	}
	require.NoError(t, server.Close())
	require.NoError(t, mail.Close())
	for line := range strings.Lines(written.String()) {
		if !strings.Contains(line, "since Config.Keys was left out") {
			log = append(log, line)
		}
	}
	return log
}

func TestRefusalsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := flooded(t, nil)
		require.Len(t, log, 4, "the first, and one line a minute")
		require.Contains(t, log[0], `msg="relay: refused a request" kind="send_relay 401 M_UNAUTHORIZED" address=192.0.2.0 name=stranger error=`)
		for _, line := range log[1:] {
			require.Contains(t, line, `msg="relay: refused requests in the last minute" "send_relay 401 M_UNAUTHORIZED"=`)
			require.Contains(t, line, `192.0.2.1 (`)
			require.Contains(t, line, `names="stranger (`)
		}
	})
}

// Failures of ours are logged one by one only as long as they are few.
func TestFailuresAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := flooded(t, policy.Func(func(context.Context, spec.ServerName, spec.ServerName) error {
			return errors.New("the list can't be read")
		}))
		single := 0
		for _, line := range log {
			if strings.Contains(line, "the list can't be read") {
				single++
			}
		}
		require.GreaterOrEqual(t, single, 10)
		require.Less(t, len(log), 50)
		require.Contains(t, strings.Join(log, ""), `"send_relay 500 M_UNKNOWN"=`)
	})
}

package relay

import (
	"context"
	"log/slog"
	"net/http"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"

	"github.com/matrixrelay/relay/wire"
)

// defaultKeys stand in where Config.Keys was left out, which only P2P networks can
// do without. For servers with ordinary names they say so.
type defaultKeys struct {
	HexKeys
	logger *slog.Logger
	said   sync.Once
}

var _ wire.KnownKeys = (*defaultKeys)(nil)

// VerifyJSONs implements gomatrixserverlib.JSONVerifier.
func (k *defaultKeys) VerifyJSONs(ctx context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	for _, r := range requests {
		if _, isKey := k.KnownKey(r.ServerName, "ed25519:any"); isKey {
			continue
		}
		k.said.Do(func() {
			k.logger.Warn("relay: a server whose name isn't its key was refused, since Config.Keys was left out", "server", r.ServerName)
		})
		return nil, &wire.Error{
			Status: http.StatusUnauthorized, Code: wire.ErrorUnauthorized,
			Message: "this relay knows no keys but those that are the names of servers: its Config.Keys was left out",
		}
	}
	return k.HexKeys.VerifyJSONs(ctx, requests)
}

// Package checkonly is the server that benchmarks compare a relay with.
package checkonly

import (
	"io"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// Handler checks the signatures of requests to a server as a homeserver does today,
// with fclient, and stores nothing.
func Handler(self spec.ServerName, keys gomatrixserverlib.JSONVerifier) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		signed, answer := fclient.VerifyHTTPRequest(r, time.Now(), self, nil, keys)
		if signed == nil {
			http.Error(w, "no", answer.Code)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}
}

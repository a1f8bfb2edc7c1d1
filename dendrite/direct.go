package dendrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/wire"
)

// Direct wraps the homeserver's handler of PUT /send, so that a transaction that came
// directly is dropped when a relay brings it, and the other way round. Start does that
// for the route that is named SendRoute. Requests whose signature isn't right, and
// those that it can't read, are left to the handler. A body of more than
// relay.DefaultMaxBodyBytes is refused with 413.
func (r *Relay) Direct(send http.Handler) http.Handler {
	verifier := wire.Verifier{
		ServerName: r.config.Identity.ServerName, IsLocal: r.config.IsLocalServerName,
		Keys: relay.HexKeys{Others: r.config.Keys},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.Method != http.MethodPut {
			send.ServeHTTP(w, request)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, relay.DefaultMaxBodyBytes))
		if err != nil {
			refuseBody(w, err)
			return
		}
		request.Body = io.NopCloser(bytes.NewReader(body))
		origin, id, ok := signed(&verifier, request, body)
		if !ok {
			send.ServeHTTP(w, request)
			return
		}
		r.direct(w, request, send, origin, id, body)
	})
}

// signed returns whose transaction it is, if the request is signed rightly.
func signed(verifier *wire.Verifier, request *http.Request, body []byte) (origin spec.ServerName, id gomatrixserverlib.TransactionID, ok bool) {
	uri, _ := wire.SignedURI(request)
	escaped, isSend := strings.CutPrefix(uri, wire.Prefix+"send/")
	name, err := url.PathUnescape(escaped)
	if !isSend || err != nil {
		return "", "", false
	}
	origin, err = verifier.Verify(request.Context(), &wire.SignedRequest{
		Method: request.Method, URI: uri, Authorization: request.Header.Values("Authorization"), Content: body,
	}, time.Now())
	return origin, gomatrixserverlib.TransactionID(name), err == nil
}

// direct has the handler process a transaction, unless a relay has brought it.
func (r *Relay) direct(w http.ResponseWriter, request *http.Request, send http.Handler, origin spec.ServerName, id gomatrixserverlib.TransactionID, body []byte) {
	held := heldAnswer{header: make(http.Header)}
	handled, err := r.Node.Direct(request.Context(), origin, id, body, func(ctx context.Context) error {
		send.ServeHTTP(&held, request.WithContext(ctx))
		if err := ctx.Err(); err != nil {
			return err // PDUs fail for that
		}
		return held.failure()
	})
	switch {
	case handled, held.refused():
		held.send(w)
	case err != nil: // the handler didn't run, or that it did can't be written down
		r.config.Logger.WithError(err).Warnf("A transaction of %s must come again", origin)
		answer(w, http.StatusInternalServerError, `{"errcode":"M_UNKNOWN","error":"the transaction must come again"}`)
	default:
		answer(w, http.StatusOK, `{"pdus":{}}`)
	}
}

func refuseBody(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		answer(w, http.StatusRequestEntityTooLarge, `{"errcode":"M_TOO_LARGE","error":"the transaction is too large"}`)
		return
	}
	answer(w, http.StatusBadRequest, `{"errcode":"M_NOT_JSON","error":"the transaction can't be read"}`)
}

func answer(w http.ResponseWriter, status int, body string) {
	util.SetCORSHeaders(w)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // the sender may be gone
}

// A heldAnswer is an answer that is sent only once it is known that it holds.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (h *heldAnswer) Header() http.Header { return h.header }

// Write implements http.ResponseWriter.
func (h *heldAnswer) Write(b []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(b)
}

// WriteHeader implements http.ResponseWriter.
func (h *heldAnswer) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

func (h *heldAnswer) refused() bool { return h.status != 0 && h.status != http.StatusOK }

// failure is why the transaction doesn't count as handled.
func (h *heldAnswer) failure() error {
	h.WriteHeader(http.StatusOK) // if the handler has said nothing
	if h.refused() {
		return fmt.Errorf("dendrite: the homeserver answers %d", h.status)
	}
	return nil
}

func (h *heldAnswer) send(w http.ResponseWriter) {
	for name, values := range h.header {
		w.Header()[name] = values
	}
	w.WriteHeader(h.status)
	_, _ = w.Write(h.body.Bytes()) // the sender may be gone
}

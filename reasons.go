package relay

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// Reasons of refusals that don't follow from the status. Strangers can't add any.
const (
	reasonMemory  = "memory"  // too much is in flight
	reasonPolicy  = "policy"  // a 403 of Config.Policy
	reasonClosing = "closing" // the server is shut down
	reasonOther   = "other"   // a status of the embedder's own

	reasonNotFound = "not_found" // a 404 that says that something isn't here
)

// statusReasons are the reasons that follow from the status.
var statusReasons = map[int]string{
	http.StatusBadRequest:            "bad_request",
	http.StatusUnauthorized:          "signature",
	http.StatusForbidden:             "forbidden",
	http.StatusNotFound:              "unrecognized",
	http.StatusMethodNotAllowed:      "method",
	http.StatusRequestTimeout:        "slow_body",
	http.StatusConflict:              "conflict",
	http.StatusRequestEntityTooLarge: "too_large",
	http.StatusTooManyRequests:       "rate",
	statusClientGone:                 "client_gone",
	http.StatusInternalServerError:   "failed", // a fault of the relay or its store
	http.StatusServiceUnavailable:    "no_key",
	http.StatusInsufficientStorage:   "full",
}

// reasons are all that there are, for the label of a metric.
func reasons() []string {
	all := slices.AppendSeq([]string{reasonMemory, reasonPolicy, reasonClosing, reasonOther, reasonNotFound}, maps.Values(statusReasons))
	slices.Sort(all)
	return slices.Compact(all)
}

// reasonOf is the reason of an error that was answered with e.
func reasonOf(err error, e *wire.Error) string {
	switch {
	case errors.Is(err, errNoMemory):
		return reasonMemory
	case errors.Is(err, errShuttingDown):
		return reasonClosing
	case errors.Is(err, errPolicy) && e.Status == http.StatusForbidden:
		return reasonPolicy
	case e.Status == http.StatusNotFound && e.Code == spec.ErrorNotFound:
		return reasonNotFound
	}
	if reason, ok := statusReasons[e.Status]; ok {
		return reason
	}
	return reasonOther
}

// Results of checks for which a key is looked up.
const (
	lookupFound  = "found"  // and the signature is right
	lookupWrong  = "wrong"  // the signature is, or the server has no such key
	lookupFailed = "failed" // the key can't be had now
)

// lookedUp counts a check that began then and for which a key was looked up, which a
// key ring may have cached.
func (m *metrics) lookedUp(began time.Time, err error) {
	if m == nil {
		return
	}
	result := lookupFailed
	if e := (*wire.Error)(nil); err == nil {
		result = lookupFound
	} else if errors.Is(err, wire.ErrProof) || errors.As(err, &e) && e.Status == http.StatusUnauthorized {
		result = lookupWrong
	} else if errors.Is(err, context.Canceled) {
		return // it was cut off
	}
	m.lookups.WithLabelValues(result).Observe(time.Since(began).Seconds())
}

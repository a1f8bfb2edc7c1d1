package wire

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// Error codes of the Matrix specification that gomatrixserverlib doesn't name.
const (
	ErrorUnauthorized          spec.MatrixErrorCode = "M_UNAUTHORIZED"
	ErrorTooLarge              spec.MatrixErrorCode = "M_TOO_LARGE"
	ErrorResourceLimitExceeded spec.MatrixErrorCode = "M_RESOURCE_LIMIT_EXCEEDED"
)

// An Error is an answer other than 200, as a relay sends it and as a client gets it
// back. Use errors.As to get at it.
type Error struct {
	// Status is the HTTP status, Code and Message the Matrix error body. A
	// server that doesn't speak Matrix leaves Code empty.
	Status  int
	Code    spec.MatrixErrorCode
	Message string

	// RetryAfter says when to try again, if it isn't zero; more than a day from a
	// server counts as a day. On the wire it is retry_after_ms, and Retry-After
	// in whole seconds. Retry-After may also be a date when it is read.
	RetryAfter time.Duration

	// Allow is the Allow header of a 405.
	Allow string

	// Fields are further fields of the body that a relay sends. ParseError leaves it nil.
	Fields map[string]any
}

// BadRequest is a 400: the request is wrong, and will be when it is repeated.
func BadRequest(code spec.MatrixErrorCode, message string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: code, Message: message}
}

// Forbidden is a 403: the request is signed, but not for this to be done.
func Forbidden(message string) *Error {
	return &Error{Status: http.StatusForbidden, Code: spec.ErrorForbidden, Message: message}
}

// LimitExceeded is a 429: the request may be made again after that time.
func LimitExceeded(message string, after time.Duration) *Error {
	return &Error{Status: http.StatusTooManyRequests, Code: spec.ErrorLimitExceeded, Message: message, RetryAfter: after}
}

func unauthorized(message string) *Error {
	return &Error{Status: http.StatusUnauthorized, Code: ErrorUnauthorized, Message: message}
}

// keyRetryAfter is longer than a key that couldn't be fetched should count as
// missing, and short, since the failure may be over in a moment.
const keyRetryAfter = 3 * time.Second

// KeyUnavailable is a 503: no key of the server that signed can be had now, so
// nobody knows whether the signature is right.
func KeyUnavailable() *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Code: spec.ErrorUnknown,
		Message: "no valid key of the server that signed can be had now", RetryAfter: keyRetryAfter,
	}
}

// Unrecognized is a 404: there is nothing at this path, or not now.
func Unrecognized() *Error {
	return &Error{Status: http.StatusNotFound, Code: spec.ErrorUnrecognized, Message: "unrecognized request"}
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("%d", e.Status)
	if e.Code != "" {
		s += " " + string(e.Code)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// errorBody is the standard error response of the Matrix specification.
type errorBody struct {
	Code         spec.MatrixErrorCode `json:"errcode"`
	Message      string               `json:"error"`
	RetryAfterMS float64              `json:"retry_after_ms,omitempty"`
}

// maxMessage bounds messages, in bytes, both ways.
const maxMessage = 512

// NoStore says in the header of an answer that no proxy on the way may keep it:
// it is for one server, once. Proxies that cache don't look at signatures.
func NoStore(h http.Header) { h.Set("Cache-Control", "no-store") }

// Write sends the error as the answer.
func (e *Error) Write(w http.ResponseWriter) {
	body, err := e.body()
	if err != nil {
		body = []byte(`{"errcode":"M_UNKNOWN","error":""}`)
	}
	h := w.Header()
	NoStore(h)
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(e.RetryAfter.Seconds())), 10))
	}
	if e.Allow != "" {
		h.Set("Allow", e.Allow)
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(body) // a caller that has gone doesn't want it
}

// body makes the Matrix error body, with the further fields.
func (e *Error) body() ([]byte, error) {
	plain := errorBody{e.Code, shorten(e.Message), float64(e.RetryAfter.Milliseconds())}
	if len(e.Fields) == 0 {
		return json.Marshal(plain)
	}
	all := maps.Clone(e.Fields)
	all["errcode"], all["error"] = plain.Code, plain.Message
	if plain.RetryAfterMS > 0 {
		all["retry_after_ms"] = plain.RetryAfterMS
	}
	return json.Marshal(all)
}

// ParseError reads the answer of a server that wasn't a 200. The header may be
// nil.
func ParseError(status int, header http.Header, body []byte) *Error {
	e := &Error{Status: status}
	var parsed errorBody
	_ = json.Unmarshal(body, &parsed) // the fields that can be read are
	e.Code, e.Message = spec.MatrixErrorCode(shorten(string(parsed.Code))), shorten(parsed.Message)
	e.RetryAfter = milliseconds(parsed.RetryAfterMS)
	if e.RetryAfter == 0 {
		e.RetryAfter = readRetryAfter(header)
	}
	e.Allow = header.Get("Allow")
	return e
}

// readRetryAfter reads the header, which has seconds or a date, 0 if it can't be
// read. A date is compared with the answer's own, since our clock may be wrong.
func readRetryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		return milliseconds(seconds * 1000)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return milliseconds(float64(at.Sub(now).Milliseconds()))
}

// milliseconds reads a number that a stranger sent: nothing negative or
// infinite, at most a day.
func milliseconds(ms float64) time.Duration {
	const day = 24 * time.Hour
	if !(ms > 0) || math.IsInf(ms, 0) {
		return 0
	}
	return time.Duration(min(ms, float64(day.Milliseconds()))) * time.Millisecond
}

func shorten(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + "..."
}

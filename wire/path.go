package wire

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// The first parts of paths: Prefix of the baseline's, Unstable of the extensions'.
const (
	Prefix   = "/_matrix/federation/v1/"
	Unstable = "/_matrix/federation/unstable/org.matrixrelay/"
)

// An Endpoint is one of the requests that a relay answers.
type Endpoint string

// The endpoints, named as in their paths.
const (
	SendRelay Endpoint = "send_relay"
	RelayTxn  Endpoint = "relay_txn"
	Mailbox   Endpoint = "mailbox"
	Relays    Endpoint = "relays"
	Policy    Endpoint = "policy"
	Leave     Endpoint = "leave"
	Receipts  Endpoint = "receipts"
	Info      Endpoint = "info"
)

// An endpoint has the fixed parts of an Endpoint.
type endpoint struct {
	prefix  string
	methods []string
}

var endpoints = map[Endpoint]endpoint{
	SendRelay: {Prefix, []string{http.MethodPut}},
	RelayTxn:  {Prefix, []string{http.MethodGet}},
	Mailbox:   {Unstable, []string{http.MethodGet, http.MethodPut}},
	Policy:    {Unstable, []string{http.MethodGet, http.MethodPut}},
	Relays:    {Unstable, []string{http.MethodGet, http.MethodPut}},
	Leave:     {Unstable, []string{http.MethodPut}},
	Receipts:  {Unstable, []string{http.MethodGet, http.MethodPut}},
	Info:      {Unstable, []string{http.MethodGet}},
}

// Methods are the HTTP methods of the endpoint, none if it is no endpoint.
func (e Endpoint) Methods() []string { return slices.Clone(endpoints[e].methods) }

// Takes reports whether the endpoint has an HTTP method.
func (e Endpoint) Takes(method string) bool { return slices.Contains(endpoints[e].methods, method) }

// A Route is the content of a request's path.
type Route struct {
	Endpoint Endpoint

	// TransactionID is set for SendRelay.
	TransactionID gomatrixserverlib.TransactionID

	// User names the destination: see Destination. It is set for SendRelay and RelayTxn.
	User spec.UserID

	// Server is the server whose record it is, or whose receipts are asked for. It is set
	// for Relays, and may be for Receipts.
	Server spec.ServerName

	// Query is set for RelayTxn, SendRelay and Receipts.
	Query Query
}

// Destination is the server whose mailbox or record the request is about, if its path
// says that.
func (r *Route) Destination() spec.ServerName {
	if r.Server != "" {
		return r.Server
	}
	return r.User.Domain()
}

// SignedURI returns the part of an HTTP request's URI that its signature
// covers: the path as the sender escaped it and the query. It ignores changes that an
// embedder's router made to the URL, and everything before /_matrix, which a proxy or
// a prefix may have put there. If the URI isn't one of a relay, ok is false.
func SignedURI(r *http.Request) (uri string, ok bool) {
	raw := r.RequestURI
	if raw == "" && r.URL != nil { // not from a server, but built by hand
		raw = r.URL.RequestURI()
	}
	path, _, _ := strings.Cut(raw, "?")
	start := strings.Index(path, Prefix)
	if start < 0 {
		start = strings.Index(path, Unstable)
	}
	if start < 0 {
		return "", false
	}
	// fclient signs and checks the URI in the form that net/url gives it.
	u, err := url.ParseRequestURI(raw[start:])
	if err != nil {
		return "", false
	}
	return u.RequestURI(), true
}

// ParseEndpoint returns the endpoint of a URI from SignedURI, whether or not
// the rest of it is right; ok is false if it is none of ours.
func ParseEndpoint(uri string) (e Endpoint, ok bool) {
	prefix := Prefix
	if !strings.HasPrefix(uri, prefix) {
		prefix = Unstable
	}
	path, _, _ := strings.Cut(uri, "?")
	name, _, _ := strings.Cut(strings.TrimPrefix(path, prefix), "/")
	e = Endpoint(name)
	known, ok := endpoints[e]
	return e, ok && known.prefix == prefix && strings.HasPrefix(uri, prefix)
}

// ParseURI reads a URI from SignedURI. The error is an *Error: 404
// M_UNRECOGNIZED for a path that isn't one of ours, 400 for segments or
// parameters that can't be read, M_INVALID_USERNAME for a user ID that is none.
func ParseURI(uri string) (Route, error) {
	endpoint, ok := ParseEndpoint(uri)
	if !ok {
		return Route{}, Unrecognized()
	}
	path, _, _ := strings.Cut(uri, "?")
	segments := strings.Split(strings.TrimPrefix(path, endpoints[endpoint].prefix+string(endpoint)), "/")[1:]
	r := Route{Endpoint: endpoint}
	switch {
	case endpoint == Relays:
		return parseRelays(segments)
	case endpoint == Receipts && len(segments) == 0:
		return parseReceipts(uri)
	case endpoints[endpoint].prefix == Unstable && len(segments) == 0:
		return r, nil
	case endpoint == SendRelay && len(segments) == 2:
		id, err := url.PathUnescape(segments[0])
		if err != nil || id == "" || len(id) > MaxTransactionIDBytes {
			return Route{}, BadRequest(spec.ErrorInvalidParam, "the transaction ID in the path is empty, too long or wrongly escaped")
		}
		r.TransactionID = gomatrixserverlib.TransactionID(id)
		if r.Query, err = parseSendQuery(uri); err != nil {
			return Route{}, err
		}
	case endpoint == RelayTxn && len(segments) == 1:
		query, err := parseQuery(uri)
		if err != nil {
			return Route{}, err
		}
		r.Query = query
	default:
		return Route{}, Unrecognized()
	}
	user, err := parseUserID(segments[len(segments)-1])
	if err != nil {
		return Route{}, BadRequest(spec.ErrorInvalidUsername, err.Error())
	}
	r.User = *user
	return r, nil
}

func parseRelays(segments []string) (Route, error) {
	if len(segments) != 1 {
		return Route{}, Unrecognized()
	}
	name, err := url.PathUnescape(segments[0])
	if err != nil || CheckName(spec.ServerName(name)) != nil {
		return Route{}, BadRequest(spec.ErrorInvalidParam, "the path has no valid server name in it")
	}
	return Route{Endpoint: Relays, Server: spec.ServerName(name)}, nil
}

// parseReceipts reads the URI of a Receipts request: only one that asks names a server.
func parseReceipts(uri string) (Route, error) {
	r := Route{Endpoint: Receipts}
	values, err := queryOf(uri)
	if err != nil || len(values) == 0 {
		return r, err
	}
	if r.Query.After, err = number(values, "after"); err != nil {
		return Route{}, err
	}
	r.Server = spec.ServerName(values.Get("destination"))
	if len(values["destination"]) != 1 || CheckName(r.Server) != nil {
		return Route{}, BadRequest(spec.ErrorInvalidParam, "destination must be one valid server name")
	}
	return r, nil
}

func parseUserID(segment string) (*spec.UserID, error) {
	id, err := url.PathUnescape(segment)
	if err != nil {
		return nil, fmt.Errorf("user ID wrongly escaped: %w", err)
	}
	user, err := spec.NewUserID(id, true)
	if err != nil {
		return nil, fmt.Errorf("invalid user ID: %w", err)
	}
	if err := CheckName(user.Domain()); err != nil {
		return nil, fmt.Errorf("invalid server name: %w", err)
	}
	return user, nil
}

// SendRelayURI is the URI of a SendRelay request.
func SendRelayURI(id gomatrixserverlib.TransactionID, user spec.UserID) string {
	return Prefix + string(SendRelay) + "/" + url.PathEscape(string(id)) + "/" + url.PathEscape(user.String())
}

// SendURI is the URI of a transaction that is sent to its destination directly.
func SendURI(id gomatrixserverlib.TransactionID) string {
	return Prefix + "send/" + url.PathEscape(string(id))
}

// RelayTxnURI is the URI of a RelayTxn request, to which Query.Encode may be
// appended.
func RelayTxnURI(user spec.UserID) string {
	return Prefix + string(RelayTxn) + "/" + url.PathEscape(user.String())
}

// RelaysURI is the URI of a Relays request: GET asks for the record of a server, PUT
// brings it.
func RelaysURI(server spec.ServerName) string {
	return Unstable + string(Relays) + "/" + url.PathEscape(string(server))
}

// UserAt makes up the user ID that stands for a server where the endpoints ask
// for one. It fails if server isn't a valid server name: see CheckName.
func UserAt(server spec.ServerName) (spec.UserID, error) {
	if err := CheckName(server); err != nil {
		return spec.UserID{}, fmt.Errorf("server name %q: %w", server, err)
	}
	user, err := spec.NewUserID("@user:"+string(server), false)
	if err != nil {
		return spec.UserID{}, fmt.Errorf("server name %q: %w", server, err)
	}
	return *user, nil
}

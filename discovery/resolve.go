package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

const (
	maxFound     = 10_000
	keepFound    = time.Hour
	keepGuess    = 5 * time.Minute // where there was no well-known answer
	maxWellKnown = 64 << 10
	maxRedirects = 5
	maxSRV       = 4
)

// A target is where requests for a server go.
type target struct {
	endpoint  string   // the name that its certificate must be for, and a port
	host      string   // the Host header
	addresses []string // host:port, to be tried in this order
}

// found is a target that is remembered.
type found struct {
	target
	until time.Time
}

// find returns where a request goes.
func (t *Transport) find(ctx context.Context, r *http.Request) (target, error) {
	if r.URL.Scheme != "matrix" {
		return target{}, fmt.Errorf("a URL with %q, not matrix", r.URL.Scheme)
	}
	server := r.URL.Host
	t.mu.Lock()
	known, ok := t.found.Get(server)
	t.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.target, nil
	}
	name, err := parse(server)
	if err != nil {
		return target{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	to, keep, err := t.resolve(ctx, name)
	if err == nil {
		t.remember(server, found{to, time.Now().Add(keep)})
	}
	return to, err
}

func (t *Transport) remember(server string, f found) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.found.Set(server, f)
}

func (t *Transport) forget(server string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.found.Remove(server)
}

// A name is a server name in its parts.
type name struct {
	full, host, port string // port is empty if there is none
	isAddress        bool
}

func parse(server string) (name, error) {
	host, port, ok := spec.ParseAndValidateServerName(spec.ServerName(server))
	if !ok {
		return name{}, errors.New("it is not a server name")
	}
	n := name{full: server, host: strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")}
	if port >= 0 {
		n.port = strconv.Itoa(port)
	}
	_, err := netip.ParseAddr(n.host)
	n.isAddress = err == nil
	return n, nil
}

// at is the target for a name without SRV records.
func (n name) at(port string) target {
	if n.port != "" {
		port = n.port
	}
	address := net.JoinHostPort(n.host, port)
	return target{endpoint: address, host: n.full, addresses: []string{address}}
}

// resolve looks a name up, and says how long the answer holds.
func (t *Transport) resolve(ctx context.Context, n name) (to target, keep time.Duration, err error) {
	if n.isAddress || n.port != "" {
		return n.at(t.ports.federation), keepFound, nil
	}
	keep = keepGuess
	if delegated, err := t.askWellKnown(ctx, n.host); err == nil {
		n, keep = delegated, keepFound
	}
	if n.isAddress || n.port != "" {
		return n.at(t.ports.federation), keep, nil
	}
	for _, service := range []string{"matrix-fed", "matrix"} {
		_, records, _ := t.options.Resolver.LookupSRV(ctx, service, "tcp", n.host)
		// Beside an error these are the good ones. Without any the server may be
		// where it is without them.
		if len(records) > 0 {
			to, err := n.by(records)
			return to, keep, err
		}
		if ctx.Err() != nil {
			return target{}, 0, ctx.Err()
		}
	}
	return n.at(t.ports.federation), keep, nil
}

// by is the target for a name with SRV records.
func (n name) by(records []*net.SRV) (target, error) {
	to := target{host: n.full, endpoint: net.JoinHostPort(n.host, strconv.Itoa(int(records[0].Port)))}
	for _, record := range records[:min(len(records), maxSRV)] {
		if host := strings.TrimSuffix(record.Target, "."); host != "" {
			to.addresses = append(to.addresses, net.JoinHostPort(host, strconv.Itoa(int(record.Port))))
		}
	}
	if len(to.addresses) == 0 {
		return target{}, errors.New("its SRV record says that there is no such service")
	}
	return to, nil
}

// askWellKnown returns the name that a host delegates to.
func (t *Transport) askWellKnown(ctx context.Context, host string) (n name, err error) {
	url := "https://" + host
	if t.ports.wellKnown != "443" {
		url += ":" + t.ports.wellKnown
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/.well-known/matrix/server", nil)
	if err != nil {
		return n, err
	}
	response, err := t.wellKnown.Do(request)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode != http.StatusOK {
		return n, fmt.Errorf("it answers %s", response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxWellKnown))
	if err != nil {
		return n, err
	}
	var answer struct {
		Server string `json:"m.server"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return n, err
	}
	return parse(answer.Server)
}

// checkRedirect lets the answer to a well-known request be elsewhere, but at
// the same port, with TLS.
func (t *Transport) checkRedirect(r *http.Request, via []*http.Request) error {
	port := r.URL.Port()
	if port == "" {
		port = "443"
	}
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case r.URL.Scheme != "https":
		return fmt.Errorf("a redirect to %s, not https", r.URL.Scheme)
	case port != t.ports.wellKnown:
		return fmt.Errorf("a redirect to port %s", port)
	}
	return nil
}

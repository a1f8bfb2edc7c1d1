package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"
)

// A tap stands before a relay on the network and sees the requests that it takes.
type tap struct {
	mu      sync.Mutex
	forward http.RoundTripper // to the relay, nil: it can't be reached
	taken   []string          // bodies of send_relay that were answered with 200
	refused int               // other answers to send_relay

	// forge, if it isn't nil, changes an answer to relay_txn.
	forge func(body []byte) []byte
}

// tap puts one on the network in place of a server.
func (w *world) tap(seed string) *tap {
	listener, err := w.network.listen(nameOf(seed))
	require.NoError(w.t, err)
	p := &tap{}
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", string(nameOf(seed)) },
		Transport:    p,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // the connection breaks
	}
	web := &httptest.Server{Listener: listener, Config: &http.Server{Handler: proxy}}
	web.Start()
	w.t.Cleanup(func() {
		p.set(nil)
		web.CloseClientConnections()
		web.Close()
	})
	return p
}

// set says where the relay is, and returns where it was.
func (p *tap) set(forward http.RoundTripper) (before http.RoundTripper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, p.forward = p.forward, forward
	return before
}

// at is the way to an address.
func at(address string) http.RoundTripper {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}}
}

// RoundTrip implements http.RoundTripper.
func (p *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	forward, forge := p.forward, p.forge
	p.mu.Unlock()
	if forward == nil {
		return nil, net.ErrClosed
	}
	if forge != nil {
		r.Header.Del("Accept-Encoding") // so that the transport decodes
	}
	var sent []byte
	if r.Body != nil {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	response, err := forward.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if strings.Contains(r.URL.Path, "/send_relay/") {
		p.note(response.StatusCode, string(sent))
		return response, nil
	}
	if forge == nil {
		return response, nil
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return nil, err
	}
	body = forge(body)
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	response.Header.Del("Content-Length")
	return response, nil
}

func (p *tap) note(status int, body string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if status == http.StatusOK {
		p.taken = append(p.taken, body)
	} else {
		p.refused++
	}
}

// has reports whether the relay has taken a word, from a room and to a device.
func (p *tap) has(word string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := strings.Join(p.taken, "\n")
	return strings.Contains(all, fmt.Sprintf(`"content":{"body":%q,"msgtype"`, word)) &&
		strings.Contains(all, fmt.Sprintf(`{"PHONE":{"body":%q}}`, word))
}

func (p *tap) refusals() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

package relaytest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// A trip is a request under way: to the server and back.
type trip struct {
	from, to spec.ServerName
	host     Host
	ctx      context.Context // of the request; ends with the trip
	cancel   context.CancelCauseFunc
	content  []byte // for a Handler
}

// RoundTrip implements http.RoundTripper.
func (n *Network) RoundTrip(r *http.Request) (*http.Response, error) {
	t, err := n.depart(r)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	answer, err := t.run(n, r)
	if err != nil {
		err = t.why(err)
		n.arrive(t)
		return nil, err
	}
	if t.host.Handler != nil { // all of the answer is there
		n.arrive(t)
		return answer, nil
	}
	answer.Body = &tripBody{answer.Body, func() { n.arrive(t) }}
	return answer, nil
}

// depart begins a trip, which arrive ends.
func (n *Network) depart(r *http.Request) (*trip, error) {
	signed := wire.SignedRequest{Authorization: r.Header.Values("Authorization")}
	from, _ := signed.Claimed() // a request without a signature comes from nowhere
	t := &trip{from: from, to: spec.ServerName(r.URL.Host)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[t.to]++
	if err := n.unreachable(t.from, t.to); err != nil {
		return nil, err
	}
	t.host = n.hosts[t.to]
	t.ctx, t.cancel = context.WithCancelCause(r.Context())
	n.trips[t] = struct{}{}
	if t.host.Handler != nil {
		n.underWay.Add(1)
	}
	return t, nil
}

// arrive ends a trip. It may be called more than once.
func (n *Network) arrive(t *trip) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.trips[t]; !ok {
		return
	}
	delete(n.trips, t)
	t.cancel(nil)
	if t.host.Handler != nil {
		n.underWay.Done()
	}
}

// why says why a trip failed: the reason that it was broken off for comes before
// the errors that followed.
func (t *trip) why(err error) error {
	if cause := context.Cause(t.ctx); cause != nil {
		return cause
	}
	return err
}

func (t *trip) run(n *Network, r *http.Request) (*http.Response, error) {
	if t.host.Handler != nil || t.host.Hangs {
		var err error
		if t.content, err = readBody(r); err != nil {
			return nil, err
		}
	}
	if err := t.travel(); err != nil {
		closeBody(r)
		return nil, err
	}
	if t.host.Handler == nil && t.host.Address == "" {
		closeBody(r)
		return nil, fmt.Errorf("relaytest: %s: %w", t.to, ErrRefused)
	}
	loseRequest, loseAnswer := false, false
	if t.host.Lose != nil {
		loseRequest, loseAnswer = t.host.Lose()
	}
	if loseRequest {
		closeBody(r)
		n.beLate(t, r)
		return nil, fmt.Errorf("relaytest: the request to %s %w", t.to, ErrLost)
	}
	answer, err := t.ask(n, r)
	if err != nil {
		return nil, err
	}
	if err := t.travel(); err != nil {
		_ = answer.Body.Close()
		return nil, err
	}
	if loseAnswer {
		_ = answer.Body.Close()
		return nil, fmt.Errorf("relaytest: the answer of %s %w", t.to, ErrLost)
	}
	return answer, nil
}

// travel takes the time that one way takes.
func (t *trip) travel() error {
	if t.host.Hangs {
		<-t.ctx.Done()
	} else if t.host.Latency > 0 {
		select {
		case <-time.After(t.host.Latency):
		case <-t.ctx.Done():
		}
	}
	return t.ctx.Err()
}

// ask has the host serve the request.
func (t *trip) ask(n *Network, r *http.Request) (*http.Response, error) {
	if t.host.Handler != nil {
		return t.serve(t.ctx, r)
	}
	out := r.Clone(t.ctx)
	out.URL.Scheme, out.URL.Host, out.Host = "http", t.host.Address, r.URL.Host
	return n.loopback.RoundTrip(out)
}

// serve calls the handler with the request as a web server reads it.
func (t *trip) serve(ctx context.Context, r *http.Request) (*http.Response, error) {
	in := r.Clone(ctx)
	in.RequestURI = r.URL.RequestURI()
	var err error
	if in.URL, err = url.ParseRequestURI(in.RequestURI); err != nil {
		return nil, fmt.Errorf("relaytest: %s can't be asked that: %w", t.to, err)
	}
	in.Host, in.RemoteAddr = r.URL.Host, "192.0.2.1:1234"
	in.Body, in.ContentLength, in.GetBody = io.NopCloser(bytes.NewReader(t.content)), int64(len(t.content)), nil
	out := httptest.NewRecorder()
	t.host.Handler.ServeHTTP(out, in)
	answer := out.Result()
	answer.Request = r
	return answer, nil
}

// beLate serves a request that got lost, if it is to arrive after all.
func (n *Network) beLate(t *trip, r *http.Request) {
	if t.host.Late == nil || t.host.Handler == nil {
		return
	}
	wait := t.host.Late()
	if wait <= 0 {
		return
	}
	time.AfterFunc(wait, func() {
		n.mu.Lock()
		err := n.unreachable("", t.to)
		if err == nil {
			n.underWay.Add(1)
		}
		n.mu.Unlock()
		if err == nil {
			defer n.underWay.Done()
			_, _ = t.serve(context.WithoutCancel(r.Context()), r)
		}
	})
}

func readBody(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	defer closeBody(r)
	return io.ReadAll(r.Body)
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// A tripBody ends the trip when the answer was read.
type tripBody struct {
	io.ReadCloser
	arrive func()
}

func (b *tripBody) Close() error {
	err := b.ReadCloser.Close()
	b.arrive()
	return err
}

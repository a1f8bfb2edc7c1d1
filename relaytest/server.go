package relaytest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// A Server is a web server on loopback, like an httptest.Server. But its Close
// doesn't wait for requests that wait for mail: it ends them.
type Server struct {
	// Address is its host:port, for Host.Address and for http:// URLs.
	Address string

	http     http.Server
	end      context.CancelFunc // of the contexts of all requests
	endWaits func()
	served   chan error
	close    func() error

	mu       sync.Mutex
	closed   bool
	requests sync.WaitGroup
}

// grace is how long requests have to end by themselves.
const grace = time.Second

// NewServer starts a server. If the handler has a method EndWaits, as a
// relay.Server does, Close begins with that; so requests that wait for mail are
// answered. Those of a relay that is mounted on a mux break off instead.
func NewServer(handler http.Handler) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("relaytest: %w", err)
	}
	s := &Server{Address: listener.Addr().String(), served: make(chan error, 1), endWaits: func() {}}
	if waiter, ok := handler.(interface{ EndWaits() }); ok {
		s.endWaits = waiter.EndWaits
	}
	var ctx context.Context
	ctx, s.end = context.WithCancel(context.Background())
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.enter() {
			defer s.requests.Done()
			handler.ServeHTTP(w, r)
		}
	})
	s.close = sync.OnceValue(s.shutDown)
	go func() { s.served <- s.http.Serve(listener) }()
	return s, nil
}

// Close ends the requests under way and waits for them; their contexts end if
// they take longer than a second. It may be called more than once.
func (s *Server) Close() error { return s.close() }

func (s *Server) shutDown() error {
	s.endWaits()
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		err := s.http.Shutdown(ctx)
		cancel()
		if err == nil {
			break
		}
		s.end()
	}
	s.end()
	err := s.http.Close()
	<-s.served
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.requests.Wait()
	return err
}

// enter counts a request in, unless the server was closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.requests.Add(1)
	return true
}

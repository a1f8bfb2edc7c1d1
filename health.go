package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// checkupHolds is for how long the outcome of a checkup answers everybody, and
	// checkupTime how long the store may take for one.
	checkupHolds = 5 * time.Second
	checkupTime  = 5 * time.Second

	// checkupSlack is how much longer is waited for its outcome: a store that hangs in
	// the kernel doesn't end with its context.
	checkupSlack = time.Second / 2

	// healthNote is the note that a checkup writes.
	healthNote = "relay/health"
)

var (
	errClosed   = errors.New("relay: the server is closed")
	errDisabled = errors.New("relay: relaying is switched off")
)

// Health returns nil if the relay can store and read mail, and otherwise why not; an
// error that wraps store.ErrReopen stays until the store is opened again. A store that
// has reached its limits is healthy, and one whose disk is full isn't (store.ErrFull).
//
// It reads from the store and, if that is a store.Notes, writes a small note as durably
// as mail, at most every 5 seconds: callers in between get the same outcome. A store that
// doesn't answer in 5 seconds isn't healthy. If ctx ends first, its error is returned.
func (s *Server) Health(ctx context.Context) error {
	if s.gate.isClosed() {
		return errClosed
	}
	if err := store.FailureOf(s.config.Store); err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	if !s.Enabled() {
		return errDisabled
	}
	return s.health.ask(ctx)
}

// HealthHandler answers GET /healthz and GET /readyz, for supervisors and load balancers:
// 200, or 503 with the reason as text. The first fails only where nothing but a restart
// helps: the Server is closed, or its store must be reopened. The second fails if Health
// does. The reason may have paths of files in it, so strangers should not get it.
func (s *Server) HealthHandler() http.Handler {
	mux := http.NewServeMux()
	answer := func(pattern string, check func(context.Context) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), checkupTime+time.Second)
			defer cancel()
			answerHealth(w, check(ctx))
		})
	}
	answer("GET /healthz", func(context.Context) error {
		if s.gate.isClosed() {
			return errClosed
		}
		return store.FailureOf(s.config.Store)
	})
	answer("GET /readyz", s.Health)
	return mux
}

func answerHealth(w http.ResponseWriter, err error) {
	wire.NoStore(w.Header())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n")) // a caller that has gone asks again
}

// A health has one checkup at a time, however many ask.
type health struct {
	store  store.Store
	ctx    context.Context // ends with close
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	last    *checkup // nil: there was none
	running sync.WaitGroup
}

// A checkup is one look at the store.
type checkup struct {
	began time.Time
	done  chan struct{} // closed when err is set
	err   error
}

func newHealth(s store.Store) *health {
	h := &health{store: s}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// ask returns the outcome of a checkup that isn't older than checkupHolds.
func (h *health) ask(ctx context.Context) error {
	c := h.recent()
	if c == nil {
		return errClosed
	}
	ctx, cancel := context.WithDeadline(ctx, c.began.Add(checkupTime+checkupSlack))
	defer cancel()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("relay: the store hasn't answered yet: %w", ctx.Err())
	}
}

// recent returns a checkup that is under way or not old, nil after close.
func (h *health) recent() *checkup {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.last != nil && (!h.last.isDone() || time.Since(h.last.began) < checkupHolds) {
		return h.last
	}
	c := &checkup{began: time.Now(), done: make(chan struct{})}
	h.last = c
	h.running.Go(func() {
		defer close(c.done)
		c.err = h.look(c.began)
	})
	return c
}

func (c *checkup) isDone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// look reads and writes. The note that it writes differs each time, so that no store can
// leave it out.
func (h *health) look(now time.Time) error {
	ctx, cancel := context.WithTimeout(h.ctx, checkupTime)
	defer cancel()
	if _, err := h.store.Usage(ctx, ""); err != nil {
		return fmt.Errorf("relay: can't read: %w", err)
	}
	notes, ok := h.store.(store.Notes)
	if !ok {
		return nil
	}
	note := store.Note{Key: healthNote, Value: strconv.AppendInt(nil, now.UnixNano(), 10)}
	if err := notes.SetNotes(ctx, []store.Note{note}); err != nil {
		return fmt.Errorf("relay: can't store: %w", err)
	}
	return nil
}

// close ends a checkup that is under way, and lets none begin.
func (h *health) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	h.running.Wait()
}

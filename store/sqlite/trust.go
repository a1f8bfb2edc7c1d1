package sqlite

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/matrixrelay/relay/store"
)

var _ store.Failing = (*Store)(nil)

// A trust is that in the disk and the files, which is lost once and for all.
type trust struct {
	log  *slog.Logger
	once sync.Once
	lost chan struct{}
	why  error // set before lost is closed
}

func newTrust(log *slog.Logger) *trust { return &trust{log: log, lost: make(chan struct{})} }

// lose makes the store refuse to write. Only the first reason counts.
func (t *trust) lose(why error) {
	t.once.Do(func() {
		t.why = fmt.Errorf("sqlite: %w: %w", store.ErrReopen, why)
		t.log.Error("sqlite: the store writes no more until it is reopened", "error", t.why)
		close(t.lost)
	})
}

// failure is nil, or why the store writes no more.
func (t *trust) failure() error {
	select {
	case <-t.lost:
		return t.why
	default:
		return nil
	}
}

// Failed implements store.Failing.
func (s *Store) Failed() <-chan struct{} { return s.trust.lost }

// Failure implements store.Failing.
func (s *Store) Failure() error { return s.trust.failure() }

// Package trust is the ability store.Failing: a store trusts its disk until it must be
// reopened.
package trust

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/matrixrelay/relay/store"
)

// A Trust is lost once and for all. It is safe for concurrent use. Make one with
// New.
type Trust struct {
	name string
	log  *slog.Logger
	once sync.Once
	lost chan struct{}
	why  error // set before lost is closed
}

// New returns the trust of a store, with whose name its errors and its lines in
// the log begin.
func New(name string, log *slog.Logger) *Trust {
	return &Trust{name: name, log: log, lost: make(chan struct{})}
}

// Lose makes the store refuse to write. Only the first reason counts.
func (t *Trust) Lose(why error) {
	t.once.Do(func() {
		t.why = fmt.Errorf("%s: %w: %w", t.name, store.ErrReopen, why)
		t.log.Error(t.name+": the store writes no more until it is reopened", "error", t.why)
		close(t.lost)
	})
}

// Failed is store.Failing's.
func (t *Trust) Failed() <-chan struct{} { return t.lost }

// Failure is store.Failing's: nil, or why the store writes no more.
func (t *Trust) Failure() error {
	select {
	case <-t.lost:
		return t.why
	default:
		return nil
	}
}

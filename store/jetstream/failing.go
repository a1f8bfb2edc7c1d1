package jetstream

import "github.com/matrixrelay/relay/store"

var _ store.Failing = (*Store)(nil)

// Failed implements store.Failing: once the connection is closed for good, or the stream
// was deleted.
func (s *Store) Failed() <-chan struct{} { return s.engine.trust.Failed() }

// Failure implements store.Failing.
func (s *Store) Failure() error { return s.engine.trust.Failure() }

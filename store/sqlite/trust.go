package sqlite

import "github.com/matrixrelay/relay/store"

var _ store.Failing = (*Store)(nil)

// Failed implements store.Failing.
func (s *Store) Failed() <-chan struct{} { return s.trust.Failed() }

// Failure implements store.Failing.
func (s *Store) Failure() error { return s.trust.Failure() }

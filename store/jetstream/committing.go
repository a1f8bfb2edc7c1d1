package jetstream

import "github.com/matrixrelay/relay/store"

var _ store.Committing = (*Store)(nil)

// OnCommit implements store.Committing.
func (s *Store) OnCommit(tell func(store.Commit)) (stop func()) { return s.writer.queue.OnCommit(tell) }

package store

// Failing is an ability that stores may have beside Store: to say that they
// have to be closed and opened again. A program that can't do that should end
// with an error, so that its supervisor starts it anew. Like Store's, its
// methods are safe for concurrent use.
type Failing interface {
	// Failed returns a channel that is closed once every write answers
	// ErrReopen, and stays open as long as that isn't so. Close doesn't close
	// it.
	Failed() <-chan struct{}

	// Failure returns the reason, which wraps ErrReopen, once Failed is closed,
	// and nil before.
	Failure() error
}

// FailedOf returns the channel of a store that may have to be reopened, and nil, which blocks
// for ever, for one that doesn't say.
func FailedOf(s Store) <-chan struct{} {
	if failing, ok := s.(Failing); ok {
		return failing.Failed()
	}
	return nil
}

// FailureOf returns why a store must be reopened, and nil if it needn't be or doesn't say.
func FailureOf(s Store) error {
	if failing, ok := s.(Failing); ok {
		return failing.Failure()
	}
	return nil
}

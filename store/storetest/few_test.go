package storetest

import (
	"context"
	"sync"

	"github.com/matrixrelay/relay/store"
)

// endless remembers all that it ever had.
type endless struct {
	*handle
	had sync.Map
}

func (s *endless) Put(ctx context.Context, mail store.Mail, limits store.Limits) (bool, error) {
	if _, had := s.had.LoadOrStore(keyOf(&mail), true); had {
		return false, nil
	}
	return s.handle.Put(ctx, mail, limits)
}

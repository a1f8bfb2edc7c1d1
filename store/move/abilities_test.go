package move

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// An able store has the abilities that one on a disk has.
type able struct {
	store.Store
	lost chan struct{}
	why  error
}

func (a *able) Failed() <-chan struct{} { return a.lost }
func (a *able) Failure() error          { return a.why }

func TestFailing(t *testing.T) {
	for which := range 2 {
		synctest.Test(t, func(t *testing.T) {
			stores := []*able{
				{Store: memory.New(memory.Options{}), lost: make(chan struct{})},
				{Store: memory.New(memory.Options{}), lost: make(chan struct{})},
			}
			s, err := Open(t.Context(), stores[0], stores[1], Options{Logger: quiet})
			require.NoError(t, err)
			synctest.Wait()
			require.NoError(t, s.Failure())
			select {
			case <-s.Failed():
				t.Error("nothing has failed")
			default:
			}
			stores[which].why = fmt.Errorf("the disk: %w", store.ErrReopen)
			close(stores[which].lost)
			<-s.Failed()
			require.ErrorIs(t, s.Failure(), store.ErrReopen)
			require.NoError(t, s.Close())
		})
	}
}

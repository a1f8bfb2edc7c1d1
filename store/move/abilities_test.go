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

// The commits of both stores are told, as far as the stores tell of them.
func TestCommitsOfBoth(t *testing.T) {
	dir := t.TempDir()
	from, to := openSQLite(t, dir, "from", day), openSQLite(t, dir, "to", day)
	s := newStore(from, to, Options{Logger: quiet})
	told := make(chan store.Commit, 100)
	stop := s.OnCommit(func(c store.Commit) { told <- c })
	for _, one := range []store.Store{from, to} {
		_, err := one.Put(t.Context(), store.Mail{Destination: "b", Body: make([]byte, 10)}, store.Limits{})
		require.NoError(t, err)
		for bytes := int64(0); bytes < 10; { // the checkup of a store commits, too
			bytes += (<-told).Bytes
		}
	}
	stop()
	stop()
	require.NoError(t, from.Close())
	require.NoError(t, to.Close())
}

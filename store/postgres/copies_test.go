package postgres

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// Several processes together soon remember no more than the limit of all.
func TestCopiesOfSeveralProcesses(t *testing.T) {
	options := fresh(t)
	options.MaxCopies, options.MaxCopiesOfOrigin, options.SweepInterval = 20, 5, 20*time.Millisecond
	one, other := open(t, options), open(t, options)
	t.Cleanup(func() { require.NoError(t, errors.Join(one.Close(), other.Close())) })
	for n := range 30 {
		s, to := one, spec.ServerName("one")
		if n%2 == 0 {
			s, to = other, "other"
		}
		mail := store.Mail{
			Destination: to, Origin: spec.ServerName(fmt.Sprint("made up ", n)),
			TransactionID: gomatrixserverlib.TransactionID(fmt.Sprint(n)), Body: []byte("{}"),
		}
		stored, err := s.Put(t.Context(), mail, store.Limits{})
		require.NoError(t, err)
		require.True(t, stored)
		entries, err := s.Next(t.Context(), to, 0, 1, 1)
		require.NoError(t, err)
		_, err = s.Ack(t.Context(), to, entries[0].ID)
		require.NoError(t, err)
	}
	for _, s := range []*Store{one, other} {
		require.Eventually(t, func() bool {
			sizes, err := s.Sizes(t.Context())
			require.NoError(t, err)
			require.Positive(t, sizes.File)
			return sizes.Copies == 20
		}, patience, 20*time.Millisecond)
	}
}

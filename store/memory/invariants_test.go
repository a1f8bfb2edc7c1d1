package memory

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// The store's records beside its entries must agree with them after any calls,
// and when the entries are gone no record of them may stay behind.
func TestNothingStaysBehind(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			dice := rand.New(rand.NewPCG(seed, 0))
			s := New(Options{})
			defer func() { require.NoError(t, s.Close()) }()
			for range 300 {
				step(t, s, dice)
				agree(t, s)
			}
			for name, box := range maps.Clone(s.mailboxes) {
				_, err := s.Ack(t.Context(), name, box.items[len(box.items)-1].ID)
				require.NoError(t, err)
			}
			agree(t, s)
			time.Sleep(s.retention)
			_, err := s.Usage(t.Context(), "")
			require.NoError(t, err)
			require.Empty(t, s.mailboxes)
			require.Empty(t, s.names)
			require.Empty(t, s.expiring)
			require.Empty(t, s.copies.known)
			require.Zero(t, s.copies.leaving.Count())
			require.Zero(t, s.held)
		})
	}
}

func step(t *testing.T, s *Store, dice *rand.Rand) {
	to := spec.ServerName(fmt.Sprint("to", dice.IntN(4)))
	if dice.IntN(3) == 0 {
		to = store.Private("part", to)
	}
	switch dice.IntN(7) {
	case 0:
		time.Sleep(time.Duration(dice.IntN(3)) * time.Hour)
		_, err := s.Usage(t.Context(), "")
		require.NoError(t, err)
	case 1:
		if box := s.mailbox(to); len(box.items) > 0 {
			_, err := s.Ack(t.Context(), to, box.items[dice.IntN(len(box.items))/2].ID)
			require.NoError(t, err)
		}
	case 2:
		if box := s.mailbox(to); len(box.items) > 0 {
			_, err := s.Remove(t.Context(), to, []int64{box.items[dice.IntN(len(box.items))].ID, box.items[0].ID})
			require.NoError(t, err)
		}
	default:
		mail := store.Mail{Destination: to, Origin: spec.ServerName(fmt.Sprint("from", dice.IntN(3))), Body: make([]byte, dice.IntN(9))}
		mail.Digest[0], mail.Digest[1] = byte(dice.IntN(256)), byte(dice.IntN(256))
		if dice.IntN(3) > 0 {
			mail.Lifetime = time.Duration(dice.IntN(48)-1) * time.Hour
		}
		_, err := s.Put(t.Context(), mail, store.Limits{})
		require.NoError(t, err)
	}
}

// agree compares all that is counted and indexed with the entries.
func agree(t *testing.T, s *Store) {
	var held halves
	var expire []*item
	require.Equal(t, slices.Sorted(maps.Keys(s.mailboxes)), append([]spec.ServerName(nil), s.names...))
	for name, box := range s.mailboxes {
		origins := make(map[spec.ServerName]tally)
		var inBox tally
		for _, it := range box.items {
			require.Equal(t, name, it.Destination)
			require.False(t, it.gone)
			require.True(t, s.copies.has(keyOf(&it.Mail)))
			inBox = inBox.plus(it, 1)
			origins[it.Origin] = origins[it.Origin].plus(it, 1)
			if it.until > 0 {
				expire = append(expire, it)
			}
		}
		require.NotEmpty(t, box.items)
		require.Zero(t, box.gone)
		require.Equal(t, inBox, box.held)
		require.Equal(t, origins, box.origins)
		half := held.of(name)
		half.entries += inBox.entries
		half.bytes += inBox.bytes
	}
	require.Equal(t, held, s.held)
	require.ElementsMatch(t, expire, s.expiring)
	for i, it := range s.expiring {
		require.Equal(t, i, it.at)
	}
}

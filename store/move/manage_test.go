package move

import (
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// An operator sees and removes mail that isn't moved yet.
func TestManagedWhileMoving(t *testing.T) {
	old := memory.New(memory.Options{})
	var want []spec.ServerName
	for i := range 300 {
		mail := store.Mail{Destination: "b", Origin: []spec.ServerName{"even", "odd"}[i%2], Body: make([]byte, 10)}
		copy(mail.Digest[:], fmt.Sprint(i))
		_, err := old.Put(t.Context(), mail, store.Limits{})
		require.NoError(t, err)
		want = append(want, mail.Origin)
	}
	time.Sleep(2 * time.Millisecond) // see store.FirstID
	s := newStore(old, memory.New(memory.Options{}), Options{Logger: quiet})
	require.NoError(t, s.begin(t.Context())) // and nothing is moved but for a call
	senders, err := s.Senders(t.Context(), "b", 10)
	require.NoError(t, err)
	require.Equal(t, []store.Sender{{Origin: "even", Mailboxes: 1, Entries: 150, Bytes: 1500}, {Origin: "odd", Mailboxes: 1, Entries: 150, Bytes: 1500}}, senders)
	names, err := s.Recipients(t.Context(), "odd", "", 10)
	require.NoError(t, err)
	require.Equal(t, []spec.ServerName{"b"}, names)

	var got []spec.ServerName
	for after := int64(0); ; {
		page, err := s.List(t.Context(), "b", after, 100)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		var odd []int64
		for _, l := range page {
			got, after = append(got, l.Origin), l.ID
			if l.Origin == "odd" {
				odd = append(odd, l.ID)
			}
		}
		removed, err := s.Remove(t.Context(), "b", odd)
		require.NoError(t, err)
		require.Equal(t, len(odd), removed)
	}
	require.Equal(t, want, got)
	s.start()
	<-s.Done()
	require.Len(t, all(t, s, "b"), 150)
	require.NoError(t, s.Close())
}

func TestNotManaged(t *testing.T) {
	bare := struct{ store.Store }{memory.New(memory.Options{})}
	s := newStore(bare, memory.New(memory.Options{}), Options{Logger: quiet})
	_, err := s.Senders(t.Context(), "", 1)
	require.ErrorIs(t, err, errNotManaged)
	_, err = s.Recipients(t.Context(), "a", "", 1)
	require.ErrorIs(t, err, errNotManaged)
	s = newStore(memory.New(memory.Options{}), bare, Options{Logger: quiet})
	_, err = s.List(t.Context(), "a", 0, 1)
	require.ErrorIs(t, err, errNotManaged)
	_, err = s.Remove(t.Context(), "a", []int64{1})
	require.ErrorIs(t, err, errNotManaged)
}

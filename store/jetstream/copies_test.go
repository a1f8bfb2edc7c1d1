package jetstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// Copies whose time is over aren't counted, also if nothing was removed since.
func TestCopiesThatAreOver(t *testing.T) {
	r := newRemembered(Options{Retention: time.Hour})
	hour := time.Hour.Milliseconds()
	r.add([]outgoing{{copyOf: "a"}, {copyOf: "b"}, {}}, 1, hour, 0)
	require.EqualValues(t, 2, r.count(hour-1))
	require.Zero(t, r.count(hour))
}

// Only the message goes that recognised a copy. Another message that has come to its
// subject since stays, such as mail that was put anew, and it keeps none of the others.
func TestForgetsOnlyItsOwn(t *testing.T) {
	t.Parallel()
	o := testOptions(startServer(t, nil))
	o.MaxCopies = -1
	s := open(t, o)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	const count = 20
	mails := make([]store.Mail, count)
	marks := make([]mark, count)
	for n := range mails {
		mails[n] = store.Mail{
			Destination: "b", Origin: spec.ServerName(fmt.Sprint(n)), TransactionID: gomatrixserverlib.TransactionID(fmt.Sprint(n)), Body: []byte("{}"),
		}
		stored, err := s.Put(t.Context(), mails[n], store.Limits{})
		require.NoError(t, err)
		require.True(t, stored)
	}
	entries, err := s.Next(t.Context(), "b", 0, count, 1<<20)
	require.NoError(t, err)
	_, err = s.Ack(t.Context(), "b", entries[count-2].ID) // the last is kept
	require.NoError(t, err)
	for n := range mails {
		subject := s.cache.subjects.mail(seal.KeyOf(&mails[n]))
		m, err := s.engine.last(t.Context(), subject)
		require.NoError(t, err)
		marks[n] = mark{subject, m.seq}
	}
	marks[5].seq += 1000 // which has another message since
	marks[count-1].seq--
	require.NoError(t, s.engine.forget(t.Context(), marks))
	for n := range mails {
		m, err := s.engine.last(t.Context(), marks[n].subject)
		require.NoError(t, err)
		switch n {
		case 5:
			require.Equal(t, marks[n].seq-1000, m.seq)
		case count - 1:
			require.NotEmpty(t, m.data)
		default:
			require.NotEqual(t, marks[n].seq, m.seq)
		}
	}
	entries, err = s.Next(t.Context(), "b", 0, count, 1<<20)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

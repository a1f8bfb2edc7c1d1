package jetstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
)

// Mail that can't be put keeps back the mail that comes after it, in its batch and in
// the next ones, and not the mail that came before.
func TestPutAllStopsAtTheFirstThatFails(t *testing.T) {
	t.Parallel()
	srv := startServer(t, func(o *server.Options) { o.MaxPayload = 32 << 10 })
	s := open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	const n = 2 * group.MaxJobs
	mails := make([]store.Mail, n)
	for i := range mails {
		mails[i] = testMail(fmt.Sprint(i))
	}
	good := mails[5].Body
	mails[5].Body = make([]byte, 16<<20)
	require.ErrorContains(t, s.PutAll(t.Context(), mails), "too large")
	require.Len(t, next(t, s, "b.example"), 5)

	mails[5].Body = good
	require.NoError(t, s.PutAll(t.Context(), mails))
	for i, entry := range next(t, s, "b.example") {
		require.Equal(t, mails[i].TransactionID, entry.TransactionID)
	}
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.EqualValues(t, n, usage.Entries)
}

// So does mail for which there's no room, until expired mail is removed.
func TestPutAllWithoutRoom(t *testing.T) {
	t.Parallel()
	s := openTest(t, func(o *Options) { o.MaxBytes, o.SweepInterval = 1<<20, time.Hour })
	first := testMail("first")
	first.Body, first.Lifetime = make([]byte, 600<<10), 15*time.Second // it must last for the next steps
	put(t, s, first)
	mails := []store.Mail{testMail("second"), testMail("third"), testMail("fourth")}
	mails[1].Body = make([]byte, 600<<10)
	require.ErrorIs(t, s.PutAll(t.Context(), mails), store.ErrFull)
	require.Len(t, next(t, s, "b.example"), 2)
	require.Eventually(t, func() bool { return s.PutAll(t.Context(), mails) == nil }, time.Minute, 100*time.Millisecond)
	entries := next(t, s, "b.example")
	require.Len(t, entries, 3)
	for i, entry := range entries {
		require.Equal(t, mails[i].TransactionID, entry.TransactionID)
	}
}

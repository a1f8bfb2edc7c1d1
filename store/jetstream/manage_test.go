package jetstream

import (
	"fmt"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// putMany fills a mailbox and returns its entries.
func putMany(t *testing.T, s *Store, n int) []store.Entry {
	var mails []store.Mail
	for i := range n {
		mails = append(mails, testMail(fmt.Sprint(i)))
	}
	require.NoError(t, s.PutAll(t.Context(), mails))
	return next(t, s, "b.example")
}

// Entries at the beginning of a mailbox that were removed must not be passed over with
// each Next.
func TestRemovedAreForgotten(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	entries := putMany(t, s, 3*pageSize)
	ids := make([]int64, len(entries))
	for i, e := range entries {
		ids[i] = e.ID
	}
	gone := func() (n int64) {
		require.NoError(t, s.view(t.Context(), "b.example", func(_ *batch, x *record[box]) error {
			n = x.value.mark + 1 - x.value.start
			return nil
		}))
		return n
	}
	const n = 2*pageSize + 5
	removed, err := s.Remove(t.Context(), "b.example", ids[2:n])
	require.NoError(t, err)
	require.Equal(t, n-2, removed)
	require.EqualValues(t, 0, gone(), "two entries are before them")
	removed, err = s.Remove(t.Context(), "b.example", []int64{ids[n], ids[0], ids[1]})
	require.NoError(t, err)
	require.Equal(t, 3, removed)
	require.EqualValues(t, n+1, gone())
	require.Len(t, next(t, s, "b.example"), 3*pageSize-n-1)
}

// To remove one entry from the middle of a deep mailbox not all before it is read.
func TestRemoveInTheMiddle(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	entries := putMany(t, s, 40*pageSize)
	before := s.engine.conn.Stats().OutMsgs
	removed, err := s.Remove(t.Context(), "b.example", []int64{entries[30*pageSize].ID})
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	require.Less(t, s.engine.conn.Stats().OutMsgs-before, uint64(20))
}

// Mailboxes without mail from an origin aren't asked one by one whether they have some.
func TestRecipientsAreLookedUp(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	var putting sync.WaitGroup
	for i := range 300 {
		putting.Go(func() {
			mail := testMail("1")
			mail.Destination = spec.ServerName(fmt.Sprint(i, ".example"))
			if mail.Origin = "many.example"; i%100 == 0 {
				mail.Origin = "rare.example"
			}
			_, err := s.Put(t.Context(), mail, store.Limits{})
			assert.NoError(t, err)
		})
	}
	putting.Wait()
	_, err := s.Ack(t.Context(), "100.example", next(t, s, "100.example")[0].ID)
	require.NoError(t, err)
	before := s.engine.conn.Stats().OutMsgs
	names, err := s.Recipients(t.Context(), "rare.example", "", 10)
	require.NoError(t, err)
	require.Equal(t, []spec.ServerName{"0.example", "200.example"}, names)
	require.Less(t, s.engine.conn.Stats().OutMsgs-before, uint64(100))
}

// An entry that can't be read is listed, and neither set aside nor counted to nobody.
func TestListDamaged(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	put(t, s, testMail("1"))
	put(t, s, testMail("2"))
	entries := next(t, s, "b.example")
	overwriteEntry(t, s, "b.example", entries[0].ID)
	listed, err := s.List(t.Context(), "b.example", 0, 10)
	require.NoError(t, err)
	require.Len(t, listed, 2)
	require.Equal(t, entries[0].ID, listed[0].ID)
	require.Empty(t, listed[0].Origin)
	require.Equal(t, entries[1].Origin, listed[1].Origin)
	usage, err := s.Usage(t.Context(), "b.example")
	require.NoError(t, err)
	require.EqualValues(t, 2, usage.Entries)
	senders, err := s.Senders(t.Context(), "", 10)
	require.NoError(t, err)
	require.Len(t, senders, 1)
	require.EqualValues(t, 2, senders[0].Entries)
}

// Large mail is listed without keeping it in memory, damaged mail too.
func TestListKeepsHeads(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	const n = 3
	var subjects []string
	for i := range n {
		large := testMail(fmt.Sprint(i))
		large.Body, large.Proof = make([]byte, 500<<10), []byte("proof")
		put(t, s, large)
		subjects = append(subjects, s.cache.subjects.mail(seal.KeyOf(&large)))
	}
	entries := next(t, s, "b.example")
	overwriteEntry(t, s, "b.example", entries[n-1].ID)
	messages, err := s.engine.lastEach(t.Context(), subjects, s.engine.findHead)
	require.NoError(t, err)
	for _, m := range messages {
		require.NotZero(t, m.seq)
		require.Less(t, cap(m.data), 1<<10)
	}
	listed, err := s.List(t.Context(), "b.example", 0, n)
	require.NoError(t, err)
	require.Len(t, listed, n)
	for i, l := range listed[:n-1] {
		require.Equal(t, entries[i].TransactionID, l.TransactionID)
		require.True(t, l.Proven)
	}
	require.Empty(t, listed[n-1].Origin)
}

// Mail of many messages is removed with all of them.
func TestRemoveLarge(t *testing.T) {
	t.Parallel()
	srv := startServer(t, func(o *server.Options) { o.MaxPayload = 32 << 10 })
	s := open(t, testOptions(srv))
	defer func() { require.NoError(t, s.Close()) }()
	for i := range 4 {
		large := testMail(fmt.Sprint(i))
		large.Body = make([]byte, 5<<20)
		put(t, s, large)
	}
	listed, err := s.List(t.Context(), "b.example", 0, 10)
	require.NoError(t, err)
	removed, err := s.Remove(t.Context(), "b.example", []int64{listed[3].ID, listed[1].ID, listed[0].ID})
	require.NoError(t, err)
	require.Equal(t, 3, removed)
	left, err := s.List(t.Context(), "b.example", 0, 10)
	require.NoError(t, err)
	require.Equal(t, listed[2:3], left)
	require.Len(t, next(t, s, "b.example"), 1)
}

package admin_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

func TestStatus(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		r.put("a.example", "b.example", 3, 0)
		r.put("a.example", store.Private("queue", "c.example"), 1, 0)
		status, err := o.Status(r.Context())
		require.NoError(r, err)
		require.Equal(r, spec.ServerName("relay.example"), status.ServerName)
		require.Equal(r, "v1", status.Version)
		require.Equal(r, admin.Held{Entries: 3, Bytes: 3 * mailSize}, status.Servers)
		require.Equal(r, admin.Held{Entries: 1, Bytes: mailSize}, status.Private)
		require.False(r, status.Now.Before(status.Started))
		require.NotNil(r, status.Activity)
		require.Equal(r, []int{3, 1000}, []int{status.Activity.Waiting, status.Activity.MaxWaiting})
		require.Len(r, status.Activity.Hour.Parts, 60)
		require.NotNil(r, status.Problems)
		require.Empty(r, status.Problems)
		require.Nil(r, status.Files, "memory has none")
		require.True(r, status.Blocks)
		require.True(r, status.Invites)
	})
}

// Mailboxes tell when their server has asked for its mail, and those whose server hasn't can
// be listed alone, in pages, also where they are far apart.
func TestLastFetch(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		var names []spec.ServerName
		for i := 1; i < 2500; i++ {
			name := spec.ServerName(fmt.Sprintf("%04d.example", i))
			r.put("x.example", name, 1, 0)
			if i == 1 || i == 2300 || i == 2400 {
				names = append(names, name)
			} else {
				r.lately.Asked(name)
			}
		}
		first, err := o.Mailboxes(r.Context(), admin.MailboxQuery{Unfetched: true, Limit: 2})
		require.NoError(r, err)
		second, err := o.Mailboxes(r.Context(), admin.MailboxQuery{Unfetched: true, After: first[1].Name, Limit: 2})
		require.NoError(r, err)
		for i, box := range append(first, second...) {
			require.Equal(r, names[i], box.Name)
			require.Nil(r, box.LastFetch)
			require.WithinDuration(r, time.Now(), *box.NotSince, time.Hour)
		}
		require.Len(r, second, 1)
		none, err := o.Mailboxes(r.Context(), admin.MailboxQuery{Unfetched: true, After: second[0].Name})
		require.NoError(r, err)
		require.Empty(r, none)
		box, err := o.Mailbox(r.Context(), "0002.example")
		require.NoError(r, err)
		require.NotNil(r, box.LastFetch)
		require.Nil(r, box.NotSince)
		queue := store.Private("queue", "q.example")
		box, err = o.Mailbox(r.Context(), queue)
		require.NoError(r, err)
		require.Equal(r, &admin.Mailbox{Name: queue}, box, "nobody fetches it")
	})
}

// A sick store has each trouble that Status knows of.
type sick struct{ *memory.Store }

func (sick) Failed() <-chan struct{} { return nil }
func (sick) Failure() error          { return fmt.Errorf("%w: the disk", store.ErrReopen) }
func (sick) Sizes(context.Context) (store.Sizes, error) {
	return store.Sizes{Copies: 3, File: 5, Log: 7}, nil
}

func (s sick) Usage(ctx context.Context, name spec.ServerName) (store.Usage, error) {
	usage, err := s.Store.Usage(ctx, name)
	usage.SetAside = 2
	return usage, err
}

func TestStatusOfTrouble(t *testing.T) {
	s := sick{memory.New(memory.Options{})}
	desk, err := admin.New(admin.Config{Store: s, Logger: quiet, Ready: func(context.Context) error { return errors.New("no keys") }})
	require.NoError(t, err)
	status, err := desk.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, &admin.Files{Database: 5, Log: 7}, status.Files)
	require.EqualValues(t, 3, *status.Copies)
	require.Len(t, status.Problems, 3)
	require.Contains(t, status.Problems[0], "the disk")
	require.Contains(t, status.Problems[1], "no keys")
	require.Contains(t, status.Problems[2], "4")
	require.True(t, status.MustRestart)
	require.False(t, status.Blocks)
	require.False(t, status.Invites)

	desk, err = admin.New(admin.Config{Store: s, Logger: quiet, Ready: func(context.Context) error { return s.Failure() }})
	require.NoError(t, err)
	status, err = desk.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, status.Problems, 2, "the same isn't said twice")

	full := aside{memory.New(memory.Options{})}
	desk, err = admin.New(admin.Config{Store: full, Logger: quiet, Ready: func(context.Context) error { return store.ErrFull }})
	require.NoError(t, err)
	status, err = desk.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, status.Problems, 2)
	require.False(t, status.MustRestart, "a restart mends neither")
}

// A relay whose store can't be read, or hangs, says so: a restart may help against neither.
func TestStatusOfUnreadableStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, isHanging := range []bool{false, true} {
			s := unreadable{memory.New(memory.Options{}), isHanging}
			desk, err := admin.New(admin.Config{Store: s, Logger: quiet})
			require.NoError(t, err)
			asked := time.Now()
			status, err := desk.Status(t.Context())
			require.NoError(t, err)
			require.Less(t, time.Since(asked), 5*time.Second)
			require.Len(t, status.Problems, 1)
			require.Contains(t, status.Problems[0], "The store can't be read: ")
			require.False(t, status.MustRestart)
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = desk.Status(ended)
			require.ErrorIs(t, err, context.Canceled)
			require.NoError(t, s.Close())
		}
	})
}

type unreadable struct {
	*memory.Store
	isHanging bool
}

func (u unreadable) Usage(ctx context.Context, _ spec.ServerName) (store.Usage, error) {
	if u.isHanging {
		<-ctx.Done()
	}
	return store.Usage{}, errors.New("it doesn't answer")
}

// An aside store has an entry that can't be read.
type aside struct{ *memory.Store }

func (s aside) Usage(ctx context.Context, name spec.ServerName) (store.Usage, error) {
	usage, err := s.Store.Usage(ctx, name)
	usage.SetAside = 1
	return usage, err
}

func TestMailboxes(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		since, _ := r.lately.LastAsked("nobody.example")
		var want []admin.Mailbox
		for i, name := range []spec.ServerName{"a.example", "b.example", "c.example:8448", "[::1]:8448"} {
			r.put("x.example", name, i+1, 0)
			want = append(want, admin.Mailbox{Name: name, Held: admin.Held{Entries: int64(i + 1), Bytes: int64(i+1) * mailSize}, NotSince: &since})
		}
		want = append(want[3:], want[:3]...)
		queue := store.Private("queue", "q.example")
		r.put("y.example", queue, 1, 0)
		r.put("y.example", "c.example:8448", 1, 0)
		want[3].Entries, want[3].Bytes = want[3].Entries+1, want[3].Bytes+mailSize

		got := []admin.Mailbox{}
		for q := (admin.MailboxQuery{Limit: 3}); ; q.After = got[len(got)-1].Name {
			page, err := o.Mailboxes(r.Context(), q)
			require.NoError(r, err)
			require.LessOrEqual(r, len(page), 3)
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
		}
		require.Equal(r, want, got)
		page, err := o.Mailboxes(r.Context(), admin.MailboxQuery{Private: true})
		require.NoError(r, err)
		require.Equal(r, []admin.Mailbox{{Name: queue, Held: admin.Held{Entries: 1, Bytes: mailSize}}}, page)
		page, err = o.Mailboxes(r.Context(), admin.MailboxQuery{Origin: "y.example"})
		require.NoError(r, err)
		require.Equal(r, want[3:], page)
		box, err := o.Mailbox(r.Context(), "b.example")
		require.NoError(r, err)
		require.Equal(r, &want[2], box)
		box, err = o.Mailbox(r.Context(), "nobody.example")
		require.NoError(r, err)
		require.Equal(r, &admin.Mailbox{Name: "nobody.example", NotSince: &since}, box)
		for _, q := range []admin.MailboxQuery{{After: queue}} {
			_, err = o.Mailboxes(r.Context(), q)
			requireStatus(r, 400, err)
		}
		for _, name := range []spec.ServerName{"", store.PrivateHalf} {
			_, err = o.Mailbox(r.Context(), name)
			requireStatus(r, 400, err)
		}
	})
}

func requireStatus(t require.TestingT, status int, err error) {
	var answer *wire.Error
	require.ErrorAs(t, err, &answer)
	require.Equal(t, status, answer.Status, err)
	require.NotEmpty(t, answer.Code)
}

func TestEntries(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		ids := r.put("a.example", "b.example", 9, 0)
		ids = append(ids, r.put("c.example", "b.example", 11, time.Hour)...)
		require.Equal(r, ids, r.left(o, "b.example"))
		kept, err := r.store.Next(r.Context(), "b.example", 0, 100, 1<<30)
		require.NoError(r, err)
		for _, bodies := range []bool{false, true} {
			page, err := o.Entries(r.Context(), admin.EntryQuery{Mailbox: "b.example", After: kept[7].ID, Limit: 2, Bodies: bodies})
			require.NoError(r, err)
			require.Len(r, page, 2)
			require.Greater(r, page[1].ExpiresMS, int64(3_590_000)-1)
			want := admin.Entry{
				ID: kept[8].ID, Origin: "a.example", TransactionID: ids[8], Bytes: mailSize, Proven: true,
				Digest: base64.RawURLEncoding.EncodeToString(kept[8].Digest[:]),
			}
			if bodies {
				want.Body, want.Proof = kept[8].Body, kept[8].Proof
			}
			require.Equal(r, want, page[0])
		}
		page, err := o.Entries(r.Context(), admin.EntryQuery{Mailbox: "nobody.example", Bodies: true})
		require.NoError(r, err)
		require.Empty(r, page)
		_, err = o.Entries(r.Context(), admin.EntryQuery{})
		requireStatus(r, 400, err)
	})
}

func TestSenders(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		r.put("a.example", "x.example", 2, 0)
		r.put("a.example", "y.example", 2, 0)
		r.put("b.example", "y.example", 3, 0)
		senders, err := o.Senders(r.Context(), "", 0)
		require.NoError(r, err)
		a, b := admin.Sender{Origin: "a.example", Mailboxes: 2, Entries: 4, Bytes: 4 * mailSize}, admin.Sender{Origin: "b.example", Mailboxes: 1, Entries: 3, Bytes: 3 * mailSize}
		require.Equal(r, []admin.Sender{a, b}, senders)
		senders, err = o.Senders(r.Context(), "", 1)
		require.NoError(r, err)
		require.Equal(r, []admin.Sender{a}, senders)
		a.Mailboxes, a.Entries, a.Bytes = 1, 2, 2*mailSize
		senders, err = o.Senders(r.Context(), "y.example", 5)
		require.NoError(r, err)
		require.Equal(r, []admin.Sender{b, a}, senders)

		_, err = o.Purge(r.Context(), admin.Purge{Origin: "b.example"})
		require.NoError(r, err)
		senders, err = o.Senders(r.Context(), "", 0)
		require.NoError(r, err)
		require.Len(r, senders, 1, "a purge shows at once")
	})
}

func TestBlocks(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		kept, err := o.Block(r.Context(), policy.Block{Entity: "Evil.example", Reason: "fills the disk"})
		require.NoError(r, err)
		require.Equal(r, "evil.example", kept.Entity)
		_, err = o.Block(r.Context(), policy.Block{Entity: "192.0.2.1/24"})
		require.NoError(r, err)
		blocks, err := o.Blocked(r.Context(), "", 0)
		require.NoError(r, err)
		require.Len(r, blocks, 2)
		require.Equal(r, *kept, blocks[1])
		blocks, err = o.Blocked(r.Context(), "192.0.2.0/24", 5)
		require.NoError(r, err)
		require.Equal(r, []policy.Block{*kept}, blocks)
		found, err := o.Unblock(r.Context(), "evil.example")
		require.NoError(r, err)
		require.True(r, found)
		found, err = o.Unblock(r.Context(), "evil.example")
		require.NoError(r, err)
		require.False(r, found)
		_, err = o.Block(r.Context(), policy.Block{Entity: "not a server"})
		requireStatus(r, 400, err)
		_, err = o.Unblock(r.Context(), "not a server")
		requireStatus(r, 400, err)
	})
}

func TestInvite(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		until := time.Now().AddDate(0, 0, 3)
		text, err := o.Invite(r.Context(), 5, until)
		require.NoError(r, err)
		require.Contains(r, text, "5-"+until.UTC().Format("20060102"))
		_, err = o.Invite(r.Context(), policy.MaxInviteUses+1, until)
		requireStatus(r, 400, err)
	})
}

// A relay without a list of blocks and without invites says so.
func TestNotConfigured(t *testing.T) {
	desk, err := admin.New(admin.Config{Store: memory.New(memory.Options{}), Logger: quiet})
	require.NoError(t, err)
	_, err = desk.Block(t.Context(), policy.Block{Entity: "a.example"})
	requireStatus(t, 404, err)
	_, err = desk.Unblock(t.Context(), "a.example")
	requireStatus(t, 404, err)
	_, err = desk.Blocked(t.Context(), "", 1)
	requireStatus(t, 404, err)
	_, err = desk.Invite(t.Context(), 1, time.Now())
	requireStatus(t, 404, err)

	_, err = admin.New(admin.Config{Store: struct{ store.Store }{memory.New(memory.Options{})}})
	require.ErrorContains(t, err, "store.Managed")
}

// slow lists senders for long, and counts how often.
type slow struct {
	*memory.Store
	asked atomic.Int64
	takes time.Duration
}

func (s *slow) Senders(ctx context.Context, name spec.ServerName, limit int) ([]store.Sender, error) {
	s.asked.Add(1)
	time.Sleep(s.takes)
	return s.Store.Senders(ctx, name, limit)
}

// However often it is asked for, making the list of all senders takes a tenth of the time
// at most, and a call that waits for it ends with its context.
func TestSendersOfSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: memory.New(memory.Options{}), takes: 2 * time.Second}
		desk, err := admin.New(admin.Config{Store: s, Logger: quiet})
		require.NoError(t, err)
		var asking sync.WaitGroup
		for range 10 {
			asking.Go(func() {
				_, err := desk.Senders(t.Context(), "", 1)
				require.NoError(t, err)
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = desk.Senders(ctx, "", 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		asking.Wait()
		require.EqualValues(t, 1, s.asked.Load())
		time.Sleep(19 * time.Second)
		_, err = desk.Senders(t.Context(), "", 1)
		require.NoError(t, err)
		require.EqualValues(t, 1, s.asked.Load())
		time.Sleep(2 * time.Second)
		_, err = desk.Senders(t.Context(), "", 1)
		require.NoError(t, err)
		require.EqualValues(t, 2, s.asked.Load())
	})
}

// All that makes mail up can be read, so that it can be put elsewhere.
func TestWholeEntries(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		mail := store.Mail{Destination: "b.example", Origin: "a.example", TransactionID: "not \xff UTF-8", Body: []byte("the body"), Proof: []byte("the proof")}
		_, err := r.store.Put(r.Context(), mail, store.Limits{})
		require.NoError(r, err)
		entries, err := o.Entries(r.Context(), admin.EntryQuery{Mailbox: "b.example", Bodies: true})
		require.NoError(r, err)
		require.Equal(r, []any{mail.Body, mail.Proof, []byte(mail.TransactionID)}, []any{entries[0].Body, entries[0].Proof, entries[0].RawID})
		entries, err = o.Entries(r.Context(), admin.EntryQuery{Mailbox: "b.example"})
		require.NoError(r, err)
		require.Empty(r, entries[0].Proof)
	})
}

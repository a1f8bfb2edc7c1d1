package admin_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

func TestPurge(t *testing.T) {
	const hour = time.Hour
	boxes := []spec.ServerName{"x.example", "y.example", store.Private("queue", "x.example")}
	for name, one := range map[string]struct {
		purge admin.Purge
		takes func(mailbox int, origin string, soon bool) bool
	}{
		"a mailbox": {admin.Purge{Mailbox: boxes[0]}, func(box int, _ string, _ bool) bool { return box == 0 }},
		"an origin": {admin.Purge{Origin: "a.example"}, func(box int, origin string, _ bool) bool { return box < 2 && origin == "a.example" }},
		"mail that expires soon": {admin.Purge{ExpiresMS: 2 * hour.Milliseconds()}, func(box int, _ string, soon bool) bool {
			return box < 2 && soon
		}},
		"an origin in a mailbox": {admin.Purge{Mailbox: boxes[1], Origin: "a.example"}, func(box int, origin string, _ bool) bool {
			return box == 1 && origin == "a.example"
		}},
		"all together": {admin.Purge{Mailbox: boxes[1], Origin: "a.example", ExpiresMS: 1}, func(int, string, bool) bool { return false }},
		"a private mailbox": {admin.Purge{Mailbox: boxes[2], ExpiresMS: 2 * hour.Milliseconds()}, func(box int, _ string, soon bool) bool {
			return box == 2 && soon
		}},
		"an empty mailbox": {admin.Purge{Mailbox: "z.example"}, func(int, string, bool) bool { return false }},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(r *rig, o admin.Operator) {
				kept := make(map[spec.ServerName][]gomatrixserverlib.TransactionID)
				gone := int64(0)
				for round := range 3 {
					for box, mailbox := range boxes {
						for _, origin := range []spec.ServerName{"a.example", "b.example"} {
							for _, lifetime := range []time.Duration{0, hour, 9 * hour} {
								ids := r.put(origin, mailbox, 1+round, lifetime)
								if one.takes(box, string(origin), lifetime == hour) {
									gone += int64(len(ids))
								} else {
									kept[mailbox] = append(kept[mailbox], ids...)
								}
							}
						}
					}
				}
				want := admin.Purged{Entries: gone, Bytes: gone * mailSize}
				one.purge.DryRun = true
				sum, err := admin.PurgeAll(r.Context(), o, one.purge, nil)
				require.NoError(r, err)
				require.Equal(r, want, sum)
				one.purge.DryRun = false
				var last admin.Purged
				sum, err = admin.PurgeAll(r.Context(), o, one.purge, func(so admin.Purged) { last = so })
				require.NoError(r, err)
				require.Equal(r, want, sum)
				require.Equal(r, want, last)
				for _, mailbox := range boxes {
					require.Equal(r, kept[mailbox], r.left(o, mailbox))
				}
			})
		})
	}
}

func TestWrongPurge(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		queue := store.Private("queue", "x.example")
		r.put("a.example", "b.example", 1, 0)
		r.put("a.example", queue, 1, 0)
		for _, p := range []admin.Purge{
			{}, {DryRun: true}, {Mailbox: store.PrivateHalf}, {Origin: "a.example", ExpiresMS: -1},
			{Origin: "a.example", From: admin.Position{Mailbox: queue}},
			{Mailbox: "b.example", From: admin.Position{Mailbox: "c.example"}},
		} {
			_, err := o.Purge(r.Context(), p)
			requireStatus(r, 400, err)
		}
		_, err := o.Verify(r.Context(), admin.Position{Mailbox: queue})
		requireStatus(r, 400, err)
		require.Len(r, r.left(o, "b.example"), 1)
		require.Len(r, r.left(o, queue), 1)
	})
}

// A purge of much, while mail comes and goes, takes several steps and everything that
// was there when it began, and nothing of others.
func TestPurgeInSteps(t *testing.T) {
	dice := rand.New(rand.NewPCG(seeds.Of(t, "RELAY_ADMIN_SEED"), 0))
	r := newRig(t, memory.New(memory.Options{}))
	bad, good := 0, make(map[spec.ServerName][]gomatrixserverlib.TransactionID)
	for i := range 9000 {
		mailbox := spec.ServerName(fmt.Sprintf("%d.example", i%7))
		if dice.IntN(2) == 0 {
			bad += len(r.put("bad.example", mailbox, 1, 0))
		} else {
			good[mailbox] = append(good[mailbox], r.put("good.example", mailbox, 1, 0)...)
		}
	}
	steps, before := 0, int64(0)
	sum, err := admin.PurgeAll(t.Context(), r.client, admin.Purge{Origin: "bad.example"}, func(so admin.Purged) {
		steps++
		require.LessOrEqual(t, so.Entries-before, int64(5000), "a step is bounded")
		before = so.Entries
		mailbox := spec.ServerName(fmt.Sprintf("%d.example", dice.IntN(7)))
		good[mailbox] = append(good[mailbox], r.put("good.example", mailbox, 1, 0)...)
	})
	require.NoError(t, err)
	require.EqualValues(t, bad, sum.Entries)
	require.Greater(t, steps, 2)
	for mailbox, ids := range good {
		require.Equal(t, ids, r.left(r.client, mailbox))
	}
	senders, err := r.client.Senders(t.Context(), "", 0)
	require.NoError(t, err)
	require.Len(t, senders, 1)
}

// partly reads a mailbox up to where its disk fails, and has set something aside in
// another.
type partly struct{ *memory.Store }

var errDisk = errors.New("the disk fails")

func (p partly) Next(ctx context.Context, name spec.ServerName, after int64, entries int, bytes int64) ([]store.Entry, error) {
	if name == "fails.example" && after > 0 {
		return nil, errDisk
	}
	if name == "fails.example" {
		entries = 2
	}
	return p.Store.Next(ctx, name, after, entries, bytes)
}

func (p partly) Usage(ctx context.Context, name spec.ServerName) (store.Usage, error) {
	usage, err := p.Store.Usage(ctx, name)
	if name == "aside.example" {
		usage.SetAside = 3
	}
	return usage, err
}

func TestVerify(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		sum, err := admin.VerifyAll(r.Context(), o, nil)
		require.NoError(r, err)
		require.Equal(r, admin.Verified{}, sum)
	})
	r := newRig(t, partly{memory.New(memory.Options{})})
	r.put("a.example", "well.example", 9000, 0)
	r.put("a.example", "aside.example", 2, 0)
	r.put("a.example", "fails.example", 5, 0)
	steps := 0
	sum, err := admin.VerifyAll(t.Context(), r.client, func(admin.Verified) { steps++ })
	require.NoError(t, err)
	require.Greater(t, steps, 2)
	require.Equal(t, admin.Verified{
		Mailboxes: 3, Entries: 9004, Bytes: 9004 * mailSize,
		Damaged: []admin.Damaged{{Mailbox: "aside.example", SetAside: 3}, {Mailbox: "fails.example", Error: errDisk.Error()}},
	}, sum)
}

// A step ends with its context, and an error of the store is told.
func TestStepsEnd(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	r.put("a.example", "b.example", 3, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.desk.Verify(ctx, admin.Position{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = r.desk.Purge(ctx, admin.Purge{Origin: "a.example"})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, r.store.Close())
	_, err = r.desk.Verify(t.Context(), admin.Position{})
	require.ErrorIs(t, err, store.ErrClosed)
	_, err = r.client.Purge(t.Context(), admin.Purge{Origin: "a.example"})
	requireStatus(t, 503, err)
}

// A purge up to an ID leaves the mail behind it.
func TestPurgeUpTo(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		r.put("a.example", "b.example", 1200, 0)
		entries, err := o.Entries(r.Context(), admin.EntryQuery{Mailbox: "b.example", Limit: 700})
		require.NoError(r, err)
		upTo := entries[699].ID
		sum, err := admin.PurgeAll(r.Context(), o, admin.Purge{Mailbox: "b.example", UpTo: upTo}, nil)
		require.NoError(r, err)
		require.EqualValues(r, 700, sum.Entries)
		left, err := o.Entries(r.Context(), admin.EntryQuery{Mailbox: "b.example", Limit: 1000})
		require.NoError(r, err)
		require.Len(r, left, 500)
		require.Greater(r, left[0].ID, upTo)
		for _, wrong := range []admin.Purge{{UpTo: 5}, {Origin: "a.example", UpTo: 5}, {Mailbox: "b.example", UpTo: -1}} {
			_, err := o.Purge(r.Context(), wrong)
			requireStatus(r, 400, err)
		}
	})
}

package policy_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// A fewNotes store takes few changes of notes at once, as JetStream does.
type fewNotes struct{ *memory.Store }

func (s fewNotes) SetNotes(ctx context.Context, changes []store.Note) error {
	if len(changes) > 800 {
		return fmt.Errorf("%d changes of notes at once", len(changes))
	}
	return s.Store.SetNotes(ctx, changes)
}

func (s fewNotes) add(t *testing.T, prefix, value string, count int) {
	t.Helper()
	notes := make([]store.Note, count)
	for i := range notes {
		notes[i] = store.Note{Key: fmt.Sprint(prefix, i), Value: []byte(value)}
	}
	require.NoError(t, s.Store.SetNotes(t.Context(), notes))
}

// However many claims or mailboxes have become too old, others get their places.
func TestManyTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOpen(t)
		s := fewNotes{o.store.(*memory.Store)}
		o.config.Store = s
		o.restart()
		s.add(t, "relay/claim/", `{"asked":0}`, 1000)
		s.add(t, "relay/owned/", `{"mailbox":"x","left":0}`, 2000)
		time.Sleep(200 * 24 * time.Hour)
		require.True(t, o.ask("192.0.2.1", "new"))

		owners, err := policy.NewOwners(policy.OwnersConfig{Store: s, Most: 10})
		require.NoError(t, err)
		_, err = owners.Mailbox(t.Context(), &policy.Request{Origin: "new", Member: true})
		require.NoError(t, err)
		left, err := s.Notes(t.Context(), "relay/", "", 10)
		require.NoError(t, err)
		require.Len(t, left, 2, "the claim and the mailbox")
	})
}

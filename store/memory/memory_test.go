package memory_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/store/storetest"
)

func newPlace(testing.TB) storetest.Place {
	return storetest.Place{
		Open: func(_ testing.TB, retention time.Duration) store.Store {
			return memory.New(memory.Options{Retention: retention})
		},
		OpenFew: func(_ testing.TB, ofAll, ofOrigin int64) store.Store {
			return memory.New(memory.Options{MaxCopies: ofAll, MaxCopiesOfOrigin: ofOrigin})
		},
		Volatile: true,
	}
}

func TestStore(t *testing.T) { storetest.Run(t, newPlace) }

func BenchmarkStore(b *testing.B) { storetest.Benchmark(b, newPlace) }

const (
	day      = 24 * time.Hour
	lifetime = 30 * day
)

func letter(id string) store.Mail {
	mail := store.Mail{Destination: "b.example", Origin: "a.example", Body: []byte(id)}
	mail.TransactionID = "1"
	copy(mail.Digest[:], id)
	return mail
}

// A mailbox is a store in a bubble of testing/synctest.
type mailbox struct {
	*testing.T
	*memory.Store
}

func inBubble(t *testing.T, options memory.Options, test func(m mailbox)) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(options)
		defer func() { require.NoError(t, s.Close()) }()
		test(mailbox{t, s})
	})
}

func (m mailbox) put(mail store.Mail) bool {
	m.Helper()
	stored, err := m.Put(m.Context(), mail, store.Limits{})
	require.NoError(m, err)
	return stored
}

func (m mailbox) has(bodies ...string) []store.Entry {
	m.Helper()
	entries, err := m.Next(m.Context(), "b.example", 0, 10, 1<<20)
	if len(bodies) == 0 {
		require.ErrorIs(m, err, store.ErrEmpty)
		return nil
	}
	require.NoError(m, err)
	got := make([]string, len(entries))
	for i, entry := range entries {
		got[i] = string(entry.Body)
	}
	require.Equal(m, bodies, got)
	return entries
}

func TestExpiry(t *testing.T) {
	inBubble(t, memory.Options{}, func(m mailbox) {
		first, second, third := letter("first"), letter("second"), letter("third")
		first.Lifetime = lifetime
		second.Lifetime = 2 * lifetime
		for _, mail := range []store.Mail{second, first, third} {
			require.True(m, m.put(mail))
		}
		time.Sleep(lifetime - time.Millisecond)
		m.has("second", "first", "third")
		time.Sleep(time.Millisecond)
		m.has("second", "third")
		time.Sleep(lifetime)
		m.has("third")
		usage, err := m.Usage(m.Context(), "")
		require.NoError(m, err)
		require.Equal(m, store.Usage{Entries: 1, Bytes: third.Size()}, usage)
		time.Sleep(100 * lifetime)
		m.has("third")
	})
}

func TestExpiryMakesRoom(t *testing.T) {
	inBubble(t, memory.Options{}, func(m mailbox) {
		first, second := letter("first"), letter("second")
		first.Lifetime = lifetime
		limits := store.Limits{Entries: 1}
		require.True(m, m.put(first))
		_, err := m.Put(m.Context(), second, limits)
		require.ErrorIs(m, err, store.ErrFull)
		time.Sleep(lifetime)
		stored, err := m.Put(m.Context(), second, limits)
		require.NoError(m, err)
		require.True(m, stored)
	})
}

// Copies are recognised for exactly the retention after the mail is gone.
func TestRetention(t *testing.T) {
	for _, c := range []struct {
		options   memory.Options
		retention time.Duration
	}{{memory.Options{}, day}, {memory.Options{Retention: time.Hour}, time.Hour}} {
		inBubble(t, c.options, func(m mailbox) {
			acked, expired := letter("acked"), letter("expired")
			require.True(m, m.put(acked))
			expired.Lifetime = lifetime
			require.True(m, m.put(expired))
			time.Sleep(lifetime - time.Second)
			require.False(m, m.put(acked), "kept for longer than the retention")

			removed, err := m.Ack(m.Context(), "b.example", m.has("acked", "expired")[0].ID)
			require.NoError(m, err)
			require.Equal(m, 1, removed)
			time.Sleep(time.Second)
			m.has()
			time.Sleep(c.retention - time.Second - time.Nanosecond)
			require.False(m, m.put(acked))
			time.Sleep(time.Nanosecond)
			require.True(m, m.put(acked))
			require.False(m, m.put(expired), "expired a second after the other was acknowledged")
			time.Sleep(time.Second)
			expired.Lifetime = 0
			require.True(m, m.put(expired))
			m.has("acked", "expired")
		})
	}
}

// The suite allows a Wait to return too early; this store doesn't.
func TestWaitReturnsOnlyForMail(t *testing.T) {
	inBubble(t, memory.Options{}, func(m mailbox) {
		require.True(m, m.put(letter("first")))
		last := m.has("first")[0].ID
		woken := false
		go func() {
			require.NoError(m, m.Wait(m.Context(), "b.example", last))
			woken = true
		}()
		other := letter("other")
		other.Destination = "c.example"
		require.True(m, m.put(other))
		require.False(m, m.put(letter("first")))
		time.Sleep(day)
		synctest.Wait()
		require.False(m, woken)
		require.True(m, m.put(letter("second")))
		synctest.Wait()
		require.True(m, woken)
	})
}

func TestWaitTimesOut(t *testing.T) {
	inBubble(t, memory.Options{}, func(m mailbox) {
		ctx, cancel := context.WithTimeout(m.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		require.ErrorIs(m, m.Wait(ctx, "b.example", 0), context.DeadlineExceeded)
		require.Equal(m, time.Minute, time.Since(start))
	})
}

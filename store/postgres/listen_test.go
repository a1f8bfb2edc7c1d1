//go:build unix

package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
	"github.com/matrixrelay/relay/store/storetest"
)

// arrival starts to wait for mail and returns what waits for the end of that.
func arrival(t *testing.T, s *Store, destination spec.ServerName) (wait func()) {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for {
			_, err := s.Next(ctx, destination, 0, 1, 1)
			if err == nil {
				ended <- nil
				return
			}
			if err := s.Wait(ctx, destination, 0); err != nil {
				ended <- err
				return
			}
		}
	}()
	return func() {
		t.Helper()
		require.NoError(t, <-ended)
	}
}

// Mail that comes while the connection that listens is lost isn't missed.
func TestListenAgain(t *testing.T) {
	options := fresh(t)
	sender, receiver := open(t, options), open(t, options)
	defer func() { require.NoError(t, sender.Close()) }()
	defer func() { require.NoError(t, receiver.Close()) }()
	for n := range 5 {
		m := mail(n)
		m.Destination = spec.ServerName(fmt.Sprint("d", n))
		wait := arrival(t, receiver, m.Destination)
		ended := execute(t, options, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = $1`,
			`LISTEN "`+strings.ReplaceAll(receiver.listener.channel, `"`, `""`)+`"`)
		if n == 0 {
			require.EqualValues(t, 2, ended)
		}
		time.Sleep(time.Duration(n) * 20 * time.Millisecond)
		_, err := sender.Put(t.Context(), m, store.Limits{})
		require.NoError(t, err)
		wait()
	}
}

// Whoever waits through a pooler without a way around it is woken, if not at
// once.
func TestDeaf(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some ten seconds")
	}
	server := pgtest.Shared(t)
	connString := server.Bouncer(t, "transaction")(server.Database(t))
	sender, receiver := open(t, Options{ConnString: connString}), open(t, Options{ConnString: connString})
	defer func() { require.NoError(t, sender.Close()) }()
	defer func() { require.NoError(t, receiver.Close()) }()
	wait := arrival(t, receiver, "b")
	time.Sleep(100 * time.Millisecond)
	putMany(t, 1, sender)
	wait()
}

// TestStoreBehindPooler has another connection for each transaction, and listens past
// the pooler.
func TestStoreBehindPooler(t *testing.T) {
	if testing.Short() {
		t.Skip("the whole suite again")
	}
	server := pgtest.Shared(t)
	through := server.Bouncer(t, "transaction")
	storetest.Run(t, func(tb testing.TB) storetest.Place {
		options := fresh(tb)
		options.ListenString = options.ConnString
		options.ConnString = through(options.ConnString)
		return placeAt(options)
	})
}

// The largest batch fits into one notification, and wakes exactly those that
// it is for.
func TestAnnouncements(t *testing.T) {
	require.Less(t, nameLength*(1+group.MaxJobs), 8000)
	require.Less(t, len(schema(strings.Repeat("x", 40)).channel()), 64)
	options := fresh(t)
	sender, receiver := open(t, options), open(t, options)
	defer func() { require.NoError(t, sender.Close()) }()
	defer func() { require.NoError(t, receiver.Close()) }()
	var works []work
	var waits []func()
	for n := range group.MaxJobs {
		m := mail(n)
		m.Destination = spec.ServerName(fmt.Sprintf("\x00\xff'%d", n))
		works = append(works, newPut(m, store.Limits{}))
		waits = append(waits, arrival(t, receiver, m.Destination))
	}
	require.NoError(t, sender.writer.transact(works, false))
	for _, wait := range waits {
		wait()
	}
	for _, said := range []string{"", "x", strings.Repeat("x", nameLength), strings.Repeat("x", 100*nameLength), "test " + newID()} {
		receiver.listener.wake(said)
	}
}

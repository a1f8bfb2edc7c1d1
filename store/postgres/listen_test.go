//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/group"
	"github.com/matrixrelay/relay/store/storetest"
)

// arrival has a goroutine wait for mail, as Store.Wait does, and returns a function
// that waits for the end of that.
func arrival(t *testing.T, s *Store, destination spec.ServerName) (wait func()) {
	t.Helper()
	waits, ended := make(chan struct{}), make(chan error, 1)
	begins := sync.OnceFunc(func() { close(waits) })
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for {
			_, err := s.Next(ctx, destination, 0, 1, 1)
			if err == nil {
				ended <- nil
				return
			}
			err = s.waiting.Wait(ctx, wakeName(destination), func() error {
				err := s.past.Any(ctx, destination, 0)
				if errors.Is(err, store.ErrEmpty) { // mail that comes now must wake it
					begins()
				}
				return err
			})
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	select {
	case <-waits:
	case err := <-ended:
		t.Fatalf("it doesn't wait: %v", err)
	}
	return func() {
		t.Helper()
		require.NoError(t, <-ended)
	}
}

// Mail that comes while the connection that listens is lost isn't missed: first
// while it can't be made anew, then at moments around that.
func TestListenAgain(t *testing.T) {
	options, ear := fresh(t), "ear"+newID()
	execute(t, options, `CREATE ROLE `+ear+` LOGIN`)
	sender := open(t, options)
	defer func() { require.NoError(t, sender.Close()) }()
	u, err := url.Parse(options.ConnString)
	require.NoError(t, err)
	u.User = url.User(ear)
	options.ListenString = u.String()
	receiver := open(t, options)
	defer func() { require.NoError(t, receiver.Close()) }()
	for n := range 5 {
		m := mail(n)
		m.Destination = spec.ServerName(fmt.Sprint("d", n))
		wait := arrival(t, receiver, m.Destination)
		require.Eventually(t, func() bool {
			return execute(t, options, `SELECT FROM pg_stat_activity WHERE usename = $1 AND query LIKE 'LISTEN%'`, ear) == 1
		}, patience, time.Millisecond)
		if n == 0 {
			execute(t, options, `ALTER ROLE `+ear+` NOLOGIN`)
		}
		execute(t, options, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1`, ear)
		time.Sleep(time.Duration(n) * 20 * time.Millisecond)
		_, err := sender.Put(t.Context(), m, store.Limits{})
		require.NoError(t, err)
		execute(t, options, `ALTER ROLE `+ear+` LOGIN`)
		wait()
	}
}

// A call that waits through a pooler without a way around it is woken, if not at
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
		place := placeAt(options)
		// Left out: a crash, after which the pooler lets nobody in for a while, and the
		// tests that take longest and for which the way to the server makes no difference.
		place.Crash, place.Damage, place.Copy = nil, nil, nil
		return place
	})
}

// The largest batch fits into one notification, and wakes those that it is for,
// and nobody else.
func TestAnnouncements(t *testing.T) {
	require.Less(t, nameLength*(1+group.MaxJobs), 8000)
	require.Less(t, len(schema(strings.Repeat("x", 40)).channel()), 64)
	options := fresh(t)
	sender, receiver := open(t, options), open(t, options)
	defer func() { require.NoError(t, sender.Close()) }()
	defer func() { require.NoError(t, receiver.Close()) }()
	<-receiver.listener.tried // all waiting calls are woken then
	ctx, cancel := context.WithCancel(t.Context())
	begun, other := make(chan struct{}), make(chan error, 1)
	go func() {
		other <- receiver.waiting.Wait(ctx, wakeName("other"), func() error {
			close(begun)
			return store.ErrEmpty
		})
	}()
	<-begun
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
	cancel()
	require.ErrorIs(t, <-other, context.Canceled, "a wait for something else")
	for _, said := range []string{"", "x", strings.Repeat("x", nameLength), strings.Repeat("x", 100*nameLength), "test " + newID()} {
		receiver.listener.wake(said)
	}
}

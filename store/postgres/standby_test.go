//go:build unix

package postgres

import (
	"context"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/pgtest"
	"github.com/matrixrelay/relay/internal/seeds"
	"github.com/matrixrelay/relay/store"
)

// TestLostServer kills a server for good while two stores are used, and has its
// synchronous standby take over. The stores find it by themselves, and nothing
// is lost, doubled or out of order.
func TestLostServer(t *testing.T) {
	s := seeds.Of(t, crashSeed)
	random := rand.New(rand.NewPCG(s, 3000))
	for range seeds.Count(t, crashRounds, 1) {
		primary := pgtest.New(t)
		connString := primary.Database(t)
		standby := primary.Replica(t, pgtest.Synchronous)
		options := Options{ConnString: pgtest.Either(t, connString, primary, standby), SweepInterval: 50 * time.Millisecond}
		first, second := open(t, options), open(t, options)
		l := newLoad(t, first, second)
		l.start(s)
		l.progress(10 * loadWriters)
		time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
		primary.Kill()
		standby.Promote(t)
		l.progress(10 * loadWriters)
		l.finish()
		require.NoError(t, first.Close())
		require.NoError(t, second.Close())
		third := open(t, Options{ConnString: standby.At(t, connString)})
		putMany(t, 100, third)
		require.NoError(t, third.Close())
	}
}

// A standby that took over without having had everything loses mail; but mail that
// it then takes in gets no ID that a receiver that fetched from the server before may
// still acknowledge.
func TestLostServerAndMail(t *testing.T) {
	primary := pgtest.New(t)
	connString := primary.Database(t)
	standby := primary.Replica(t)
	options := Options{ConnString: pgtest.Either(t, connString, primary, standby)}
	s := open(t, options)
	defer func() { require.NoError(t, s.Close()) }()
	putMany(t, 1, s)
	conn := dial(t, standby.At(t, connString))
	require.Eventually(t, func() bool {
		var there bool
		err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM relay.entry)`).Scan(&there)
		return err == nil && there
	}, patience, 10*time.Millisecond)
	standby.Kill()
	putMany(t, 300, s)
	lost, err := s.Next(t.Context(), "b", 0, 300, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, lost, 300)
	primary.Kill()
	standby.Start(t)
	standby.Promote(t)

	const later = 1000
	for n := later; n < later+10; n++ {
		require.Eventually(t, func() bool {
			_, err := s.Put(t.Context(), mail(n), store.Limits{})
			return err == nil
		}, patience, 10*time.Millisecond)
	}
	kept, err := s.Next(t.Context(), "b", 0, 300, math.MaxInt64)
	require.NoError(t, err)
	require.Len(t, kept, 11, "the first, and all that came later")
	require.Greater(t, kept[1].ID, lost[len(lost)-1].ID)
	removed, err := s.Ack(t.Context(), "b", lost[len(lost)-1].ID)
	require.NoError(t, err)
	require.Zero(t, removed)
}

// A server that only repeats another one is refused, and so is a connection
// to it among others.
func TestStandby(t *testing.T) {
	primary := pgtest.New(t)
	connString := primary.Database(t)
	standby := primary.Replica(t, pgtest.Synchronous)
	_, err := Open(t.Context(), Options{ConnString: standby.At(t, connString)})
	require.ErrorContains(t, err, "postgres: open: ")
	require.True(t, isStandby(err), "%v", err)
	require.True(t, isPassing(err), "it may be about to take over")

	config, err := pgxpool.ParseConfig(connString)
	require.NoError(t, err)
	var astray, led atomic.Bool
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		if astray.Swap(false) {
			led.Store(true)
			c.Host = standby.Dir()
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	s := open(t, Options{Pool: pool})
	defer func() { require.NoError(t, s.Close()) }()
	conn := dial(t, standby.At(t, connString))
	require.Eventually(t, func() bool { // it has repeated that the tables were made
		var there bool
		err := conn.QueryRow(t.Context(), `SELECT to_regclass('relay.note') IS NOT NULL`).Scan(&there)
		return err == nil && there
	}, patience, 10*time.Millisecond)
	astray.Store(true)
	pool.Reset()
	stored, err := s.Put(t.Context(), mail(1), store.Limits{})
	require.NoError(t, err)
	require.True(t, stored)
	require.True(t, led.Load())
}

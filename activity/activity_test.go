package activity_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/activity"
)

// simulated runs a test by simulated time.
func simulated(t *testing.T, options activity.Options, run func(t *testing.T, l *activity.Log)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { run(t, activity.New(options)) })
}

// Each event is in the counts of its minute and of its quarter of an hour, and in none
// when that is over.
func TestCounts(t *testing.T) {
	simulated(t, activity.Options{}, func(t *testing.T, l *activity.Log) {
		empty := l.Report()
		require.Len(t, empty.Hour.Parts, 60)
		require.Len(t, empty.Day.Parts, 96)
		require.EqualValues(t, 60_000, empty.Hour.PartMS)
		require.EqualValues(t, 900_000, empty.Day.PartMS)
		require.Zero(t, empty.Day.Sum())

		l.Stored(100)
		l.Stored(50)
		l.Acknowledged(7)
		l.Refused(activity.Refused{Endpoint: "send_relay", Reason: "rate"})
		l.Committed(2 * time.Millisecond)
		l.Committed(4 * time.Millisecond)
		first := activity.Counts{Stored: 2, StoredBytes: 150, Acknowledged: 7, Refused: 1, Commits: 2, CommitUS: 6000, LongestCommitUS: 4000}
		require.EqualValues(t, 3000, first.MeanCommitUS())
		require.Equal(t, first, l.Report().Hour.Parts[59])
		require.Equal(t, first, l.Report().Day.Parts[95])

		time.Sleep(59 * time.Minute)
		l.Stored(1)
		l.Committed(time.Millisecond)
		r := l.Report()
		require.Equal(t, first, r.Hour.Parts[0])
		require.Equal(t, activity.Counts{Stored: 1, StoredBytes: 1, Commits: 1, CommitUS: 1000, LongestCommitUS: 1000}, r.Hour.Parts[59])
		require.Equal(t, activity.Counts{Stored: 3, StoredBytes: 151, Acknowledged: 7, Refused: 1, Commits: 3, CommitUS: 7000, LongestCommitUS: 4000}, r.Hour.Sum())
		require.Equal(t, first, r.Day.Parts[92])
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, l.Report().Hour.Sum().Stored)
		require.EqualValues(t, 1, l.Report().Hour.Parts[58].Stored)
		require.EqualValues(t, 3, l.Report().Day.Sum().Stored)
		time.Sleep(23 * time.Hour)
		require.EqualValues(t, 1, l.Report().Day.Sum().Stored)
		time.Sleep(1000 * time.Hour) // more than once around
		require.Zero(t, l.Report().Day.Sum())
		l.Stored(1)
		require.EqualValues(t, 1, l.Report().Day.Parts[95].Stored)
	})
}

func TestWaiting(t *testing.T) {
	l := activity.New(activity.Options{Waiting: func() int { return 3 }, MaxWaiting: 10})
	require.Equal(t, []int{3, 10}, []int{l.Report().Waiting, l.Report().MaxWaiting})
}

func TestRefusals(t *testing.T) {
	simulated(t, activity.Options{}, func(t *testing.T, l *activity.Log) {
		began := time.Now().UTC()
		require.NotNil(t, l.Report().Refusals)
		for i := range 100 {
			l.Refused(activity.Refused{
				Endpoint: "send_relay", Reason: "full", Address: "192.0.2.1",
				Origin: spec.ServerName(fmt.Sprint(i%50, ".example")), Destination: "b.example",
			})
		}
		l.Refused(activity.Refused{Endpoint: "relay_txn", Reason: "signature", Address: "192.0.2.2"})
		r := l.Report()
		require.True(t, began.Equal(r.RefusalsSince))
		require.Len(t, r.Refusals, 2)
		full := r.Refusals[0]
		require.Equal(t, []any{"send_relay", "full", int64(100)}, []any{full.Endpoint, full.Reason, full.Times})
		require.Equal(t, []activity.Count{{Name: "192.0.2.1", Times: 100}}, full.Addresses)
		require.Equal(t, []activity.Count{{Name: "b.example", Times: 100}}, full.Destinations)
		require.Len(t, full.Origins, 3)
		require.Equal(t, "signature", r.Refusals[1].Reason)
		require.Empty(t, r.Refusals[1].Origins)

		// They are there for an hour at least, and for two at most.
		time.Sleep(time.Hour)
		l.Refused(activity.Refused{Endpoint: "relay_txn", Reason: "signature", Address: "192.0.2.2"})
		time.Sleep(59 * time.Minute)
		r = l.Report()
		require.True(t, began.Equal(r.RefusalsSince))
		require.EqualValues(t, 2, r.Refusals[1].Times, "of both hours")
		require.EqualValues(t, 2, r.Refusals[1].Addresses[0].Times)
		time.Sleep(time.Minute)
		r = l.Report()
		require.Len(t, r.Refusals, 1)
		require.EqualValues(t, 1, r.Refusals[0].Times)
		require.Equal(t, began.Add(time.Hour), r.RefusalsSince)
		time.Sleep(100 * time.Hour)
		r = l.Report()
		require.Empty(t, r.Refusals)
		require.Equal(t, time.Now().UTC().Add(-time.Hour), r.RefusalsSince)
	})
}

// Names and kinds that strangers make up take little room.
func TestRefusalsAreBounded(t *testing.T) {
	l := activity.New(activity.Options{})
	for i := range 1000 {
		l.Refused(activity.Refused{Endpoint: fmt.Sprint("e", i%200), Reason: "rate", Origin: spec.ServerName(fmt.Sprint(i, strings.Repeat("a", 1000)))})
	}
	list := l.Report().Refusals
	require.LessOrEqual(t, len(list), 65)
	require.Equal(t, "other", list[0].Endpoint)
	require.EqualValues(t, 1000-64*5, list[0].Times)
	for _, refusal := range list {
		require.LessOrEqual(t, len(refusal.Origins[0].Name), 258)
	}
}

func TestLastAsked(t *testing.T) {
	simulated(t, activity.Options{}, func(t *testing.T, l *activity.Log) {
		began := time.Now().UTC()
		expect := func(server spec.ServerName, at time.Time, known bool) {
			t.Helper()
			got, gotKnown := l.LastAsked(server)
			require.Equal(t, known, gotKnown)
			require.Equal(t, at, got)
		}
		time.Sleep(time.Minute)
		expect("b.example", began, false)
		l.Asked("b.example")
		time.Sleep(time.Minute)
		expect("b.example", began.Add(time.Minute), true)
		expect("c.example", began, false)

		// With many others it is known for at least as long as 100,000 take.
		for i := range 100_000 {
			l.Asked(spec.ServerName(fmt.Sprint(i)))
		}
		second := time.Now().UTC()
		expect("b.example", began.Add(time.Minute), true)
		time.Sleep(time.Minute)
		for i := range 100_000 {
			l.Asked(spec.ServerName(fmt.Sprint("again", i)))
		}
		expect("b.example", second, false)
		expect("again5", time.Now().UTC(), true)
		l.Asked("b.example")
		expect("b.example", time.Now().UTC(), true)
	})
}

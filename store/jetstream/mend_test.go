package jetstream

import (
	"fmt"
	"slices"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

func losePage(t *testing.T, s *Store, page string) {
	stream, err := s.engine.js.Stream(t.Context(), s.options.Stream)
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSubject(page)))
}

func damagePage(t *testing.T, s *Store, page string) {
	_, err := s.engine.js.Publish(t.Context(), page, []byte("no page"))
	require.NoError(t, err)
}

// Entries of which the stream has lost the page are set aside, and hide none of
// the others; those that were acknowledged stay so.
func TestBadPages(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(*testing.T, *Store, string){"missing": losePage, "damaged": damagePage} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openTest(t, nil)
			const n = 3*pageSize + 3
			for i := range n {
				put(t, s, testMail(fmt.Sprint(i)))
			}
			entries := next(t, s, "b.example")
			require.Len(t, entries, n)
			_, err := s.Ack(t.Context(), "b.example", entries[1].ID)
			require.NoError(t, err)
			for _, first := range []int{0, 2 * pageSize} {
				harm(t, s, s.cache.subjects.page("b.example", entries[first].ID))
			}
			left := slices.Concat(entries[pageSize:2*pageSize], entries[3*pageSize:])
			require.Equal(t, left, next(t, s, "b.example"))
			bytes := int64(0)
			for i := range left {
				bytes += left[i].Size()
			}
			for _, of := range []spec.ServerName{"b.example", ""} {
				usage, err := s.Usage(t.Context(), of)
				require.NoError(t, err)
				require.Equal(t, store.Usage{Entries: int64(len(left)), Bytes: bytes, SetAside: 2*pageSize - 2}, usage)
			}
			_, err = s.Ack(t.Context(), "b.example", entries[n-1].ID)
			require.NoError(t, err)
			usage, err := s.Usage(t.Context(), "")
			require.NoError(t, err)
			require.Zero(t, usage)
			put(t, s, testMail("more"))
			require.Len(t, next(t, s, "b.example"), 1)
		})
	}
}

// A page that is left of a batch that was stored in part is replaced.
func TestPageThatWasThere(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	put(t, s, testMail("first"))
	damagePage(t, s, s.cache.subjects.page("b.example", next(t, s, "b.example")[0].ID))
	for i := range pageSize {
		put(t, s, testMail(fmt.Sprint(i)))
	}
	require.Len(t, next(t, s, "b.example"), pageSize+1)
}

// An Ack finds a damaged page by itself.
func TestAckOfBadPage(t *testing.T) {
	t.Parallel()
	t.Run("missing", func(t *testing.T) { testAckOfBadPage(t, losePage) })
	t.Run("damaged", func(t *testing.T) { testAckOfBadPage(t, damagePage) })
}

func testAckOfBadPage(t *testing.T, harmPage func(*testing.T, *Store, string)) {
	s := openTest(t, nil)
	for i := range pageSize + 3 {
		put(t, s, testMail(fmt.Sprint(i)))
	}
	entries := next(t, s, "b.example")
	harmPage(t, s, s.cache.subjects.page("b.example", entries[0].ID))
	_, err := s.Ack(t.Context(), "b.example", entries[pageSize].ID)
	require.NoError(t, err)
	require.Len(t, next(t, s, "b.example"), 2)
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.EqualValues(t, 2, usage.Entries)
	require.Zero(t, usage.SetAside)
}

// So does a Put, which looks for its mail there if it was put before.
func TestPutOfBadPage(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(*testing.T, *Store, string){"missing": losePage, "damaged": damagePage} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openTest(t, nil)
			for i := range pageSize + 3 {
				put(t, s, testMail(fmt.Sprint(i)))
			}
			harm(t, s, s.cache.subjects.page("b.example", next(t, s, "b.example")[0].ID))
			put(t, s, testMail("0")) // the entry that it was is set aside
			stored, err := s.Put(t.Context(), testMail("0"), store.Limits{})
			require.NoError(t, err)
			require.False(t, stored)
			require.Len(t, next(t, s, "b.example"), 4)
		})
	}
}

// A share that can't be read stops nothing: it is counted anew.
func TestBadCounts(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	put(t, s, testMail("first"))
	put(t, s, testMail("second"))
	first := next(t, s, "b.example")[0].ID
	damagePage(t, s, s.cache.subjects.share("b.example", hashOrigin("a.example")))
	put(t, s, testMail("third"))
	entries := next(t, s, "b.example")
	require.Len(t, entries, 3)
	other := testMail("other")
	other.Destination = "c.example"
	put(t, s, other)
	require.Greater(t, next(t, s, "c.example")[0].ID, entries[2].ID)
	usage, err := s.Usage(t.Context(), "")
	require.NoError(t, err)
	require.EqualValues(t, 4, usage.Entries)
	_, err = s.Ack(t.Context(), "b.example", first)
	require.NoError(t, err)
	usage, err = s.Usage(t.Context(), "b.example")
	require.NoError(t, err)
	require.EqualValues(t, 2, usage.Entries)
}

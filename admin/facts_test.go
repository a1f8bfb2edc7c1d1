package admin_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/store"
)

// Facts are those about one server, and about no other whose name begins the same.
func TestFacts(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		notes := r.store.(store.Notes)
		var want []admin.Fact
		for _, prefix := range []string{"relay/claim/", "relay/member/", "relay/owned/", "relay/record/", "relay/receipts/"} {
			want = append(want, admin.Fact{Key: prefix + "b.example", Value: []byte("of " + prefix)})
			require.NoError(r, notes.SetNotes(r.Context(), []store.Note{
				{Key: prefix + "b.example", Value: []byte("of " + prefix)}, {Key: prefix + "b.example:8448", Value: []byte("x")}, {Key: prefix + "a.example", Value: []byte("x")},
			}))
		}
		for _, key := range []string{"relay/receipt/b.example/a.example/1", "relay/receipt/b.example/c.example/2"} {
			want = append(want, admin.Fact{Key: key, Value: []byte("r")})
			require.NoError(r, notes.SetNotes(r.Context(), []store.Note{{Key: key, Value: []byte("r")}, {Key: "relay/receipt/b.example:8448/a.example/1", Value: []byte("x")}}))
		}
		now, err := r.store.(store.Timed).StoreTime(r.Context())
		require.NoError(r, err)
		got, err := o.Facts(r.Context(), "b.example")
		require.NoError(r, err)
		for i := range got {
			require.InDelta(r, int64(now/time.Second), got[i].Clock, 60)
			got[i].Clock = 0
		}
		require.Equal(r, want, got)
		got, err = o.Facts(r.Context(), "c.example")
		require.NoError(r, err)
		require.Equal(r, []admin.Fact{}, got)
		_, err = o.Facts(r.Context(), "")
		requireStatus(r, 400, err)
		requireStatus(r, 400, o.Forget(r.Context(), ""))
		require.NoError(r, o.Forget(r.Context(), "b.example"))
		require.NoError(r, o.Forget(r.Context(), "b.example"))
		for name, left := range map[spec.ServerName]int{"b.example": 0, "a.example": 5, "b.example:8448": 6} {
			got, err := o.Facts(r.Context(), name)
			require.NoError(r, err)
			require.Len(r, got, left)
		}
	})
}

// A part of the relay that begins to keep notes about servers must be in Facts, or here.
func TestNotesAreKnown(t *testing.T) {
	known := map[string]bool{
		"relay/claim/": true, "relay/member/": true, "relay/owned/": true, "relay/record/": true, "relay/receipts/": true, "relay/receipt/": true,
		"relay/block/": false, "relay/invite/": false, "relay/health": false, // of the relay as a whole
		"relay/cleared/": false, // speaks of IDs, which are others elsewhere
	}
	found := make(map[string]bool)
	for _, pattern := range []string{"../*.go", "../policy/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			raw, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, match := range regexp.MustCompile(`"(relay/[a-z]+/?)"`).FindAllSubmatch(raw, -1) {
				if !strings.HasSuffix(file, "_test.go") {
					found[string(match[1])] = true
				}
			}
		}
	}
	for prefix := range found {
		require.Contains(t, known, prefix)
	}
	require.Len(t, found, len(known))
}

package seal

import (
	"encoding/hex"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// Rows that were written stay readable: neither may change.
func TestWhatIsWrittenStays(t *testing.T) {
	mail := store.Mail{Destination: "b", Origin: "a", TransactionID: "t\x00", Digest: store.Digest{1, 2, 3}}
	key := KeyOf(&mail)
	require.Equal(t, "aea177f13b4aee37a83b6e69e0584038", hex.EncodeToString(key[:]))
	require.EqualValues(t, 1236148635, Checksum(1234, []byte("body"), []byte("proof")))
	require.EqualValues(t, 2087116195, Checksum(Never, nil, nil))
}

func TestUntil(t *testing.T) {
	for _, expires := range []time.Time{{}, time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		require.EqualValues(t, math.MaxInt64, Until(expires))
	}
	require.True(t, Expires(Never).IsZero())
	at := time.UnixMilli(1_700_000_000_123)
	require.True(t, Expires(Until(at)).Equal(at))
}

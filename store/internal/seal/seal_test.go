package seal

import (
	"encoding/hex"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

// Rows that were written stay readable: neither may change.
func TestWhatIsWrittenStays(t *testing.T) {
	mail := store.Mail{Destination: "b", Origin: "a", TransactionID: "t\x00", Digest: store.Digest{1, 2, 3}}
	key := KeyOf(&mail)
	require.Equal(t, "aea177f13b4aee37a83b6e69e0584038", hex.EncodeToString(key[:]))
	require.EqualValues(t, 1236148635, Checksum(1234, []byte("body"), []byte("proof")))
	require.EqualValues(t, 2087116195, Checksum(math.MaxInt64, nil, nil))
}

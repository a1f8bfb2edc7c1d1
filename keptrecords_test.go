package relay

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/address"
	inmemory "github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// Made-up names don't have the relay forget what it knows of a server that is in use.
func TestMadeUpNamesDisplaceNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := inmemory.New(inmemory.Options{})
		defer func() { require.NoError(t, mail.Close()) }()
		records, repeats := newKeptRecords(mail, &Config{Store: mail}), newRepeats()
		records.remember("used", &wire.RelayRecord{Seq: 7})
		repeats.handOut("used", 5)
		for i := range 2 * max(maxNumbers, maxHandedOut) {
			name := spec.ServerName(fmt.Sprint("made-up", i))
			records.remember(name, nil)
			repeats.handOut(name, 1)
			require.EqualValues(t, 7, records.seq(t.Context(), "used"))
			require.EqualValues(t, 5, repeats.handOut("used", 5))
		}
		repeats.charge(holder{address.OfServer("used"), "used"}, []given{{5, 1 << 20}})
		require.Positive(t, repeats.names.owed("used"), "it is fetched again")
	})
}

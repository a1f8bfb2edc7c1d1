package relay

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/internal/address"
	"github.com/matrixrelay/relay/store"
	inmemory "github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// Made-up names don't have the relay forget the record of a server that is in use.
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

// hangingNotes hang when they are written, until that is closed.
type hangingNotes struct {
	*inmemory.Store
	hang chan struct{}
}

func (n *hangingNotes) SetNotes(ctx context.Context, changes []store.Note) error {
	<-n.hang
	return n.Store.SetNotes(ctx, changes)
}

// While a record hangs in the store, others wait no longer than their requests last.
func TestRecordThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := inmemory.New(inmemory.Options{})
		notes := &hangingNotes{mail, make(chan struct{})}
		records := newKeptRecords(notes, &Config{Store: mail, MaxRecords: 10})
		replace := func(ctx context.Context, server spec.ServerName) error {
			_, _, err := records.replace(ctx, nil, &wire.RelayRecord{Server: server})
			return err
		}
		var hanging sync.WaitGroup
		hanging.Go(func() { require.NoError(t, replace(t.Context(), "a")) })
		synctest.Wait()
		for _, server := range []spec.ServerName{"a", "b"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			require.ErrorIs(t, replace(ctx, server), context.DeadlineExceeded)
			require.Equal(t, time.Second, time.Since(began))
			cancel()
		}
		close(notes.hang)
		hanging.Wait()
		require.Equal(t, 1, records.count)
		require.NoError(t, mail.Close())
	})
}

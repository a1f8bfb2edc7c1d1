package relay

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	memorystore "github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// testReceipts makes receipts of a.example's, "b.example" the first.
type testReceipts struct {
	testing.TB
	*keptReceipts
	store *memorystore.Store
}

// fewChanges is a store of notes that takes no more changes at once than each store does.
type fewChanges struct{ *memorystore.Store }

func (s fewChanges) SetNotes(ctx context.Context, changes []store.Note) error {
	if len(changes) > 800 {
		return fmt.Errorf("%d changes at once", len(changes))
	}
	return s.Store.SetNotes(ctx, changes)
}

func newTestReceipts(t testing.TB, s *memorystore.Store, most int) *testReceipts {
	return &testReceipts{t, newKeptReceipts(fewChanges{s}, &Config{Store: s, MaxReceipts: most}), s}
}

// give keeps a receipt for so many items.
func (r *testReceipts) give(by, to spec.ServerName, items int) wire.Receipt {
	r.Helper()
	list := make([]wire.ReceiptItem, items)
	for i := range list {
		list[i].TransactionID = gomatrixserverlib.TransactionID(fmt.Sprint(i, time.Now().UnixNano()))
	}
	receipt := signedReceipt(r, by, to, list...)
	unlock := r.writing.Lock(by)
	grown, err := r.keep(context.Background(), by, []wire.Receipt{receipt})
	unlock()
	require.NoError(r, err)
	require.Positive(r, grown)
	require.NoError(r, r.lookFurther(context.Background()))
	return receipt
}

// all are the receipts that a sender sees that asks until there are no more.
func (r *testReceipts) all(by, to spec.ServerName, after int64) (all []wire.Receipt, last int64) {
	r.Helper()
	for {
		found, err := r.after(context.Background(), by, to, after, wire.MaxReceiptsBytes)
		require.NoError(r, err)
		for _, text := range found.Receipts {
			receipt, err := wire.ReadReceipt(text)
			require.NoError(r, err)
			all = append(all, receipt)
		}
		if len(found.Receipts) == 0 {
			return all, found.Next
		}
		if len(all) > len(found.Receipts) {
			require.Greater(r, found.Next, after)
		}
		after = found.Next
	}
}

func (r *testReceipts) notes() (notes []store.Note) {
	r.Helper()
	notes, err := r.store.Notes(context.Background(), "", "", 1_000_000)
	require.NoError(r, err)
	return notes
}

// TestReceiptsInPages: a sender sees each once, in order, in answers that are bounded.
func TestReceiptsInPages(t *testing.T) {
	r := newTestReceipts(t, memorystore.New(memorystore.Options{}), DefaultMaxReceipts)
	var want []wire.Receipt
	for i := range 30 {
		want = append(want, r.give("b.example", "a.example", 1+i%3))
		r.give("b.example", "a.example:1", 1)
		r.give("b.example:1", "a.example", 1)
	}
	got, last := r.all("b.example", "a.example", 0)
	require.Equal(t, want, got)
	none, again := r.all("b.example", "a.example", last)
	require.Empty(t, none)
	require.Equal(t, last, again)

	small, err := r.after(t.Context(), "b.example", "a.example", 0, 2*len(want[0].JSON())+10)
	require.NoError(t, err)
	require.Len(t, small.Receipts, 1, "the second is longer")
	rest, _ := r.all("b.example", "a.example", small.Next)
	require.Equal(t, want[1:], rest)
	large, err := r.after(t.Context(), "b.example", "a.example", 0, 1)
	require.NoError(t, err)
	require.Len(t, large.Receipts, 1, "one always fits")
	require.Equal(t, small.Next, large.Next)
}

// TestReceiptsAreBounded: the newest are kept, up to so many for a pair and for a
// destination, and no other pays for it.
func TestReceiptsAreBounded(t *testing.T) {
	r := newTestReceipts(t, memorystore.New(memorystore.Options{}), 6000) // 600 for a pair
	other := r.give("c.example", "a.example", 3)
	busy := r.give("b.example", "a1.example", 100)
	for range 30 {
		busy = r.give("b.example", "a1.example", 100)
	}
	got, _ := r.all("b.example", "a1.example", 0)
	require.LessOrEqual(t, len(got), 12)
	require.GreaterOrEqual(t, len(got), 6)
	require.Equal(t, busy, got[len(got)-1])

	newest := make(map[spec.ServerName]wire.Receipt)
	for i := range 40 {
		origin := spec.ServerName(fmt.Sprintf("o%d.example", i))
		newest[origin] = r.give("b.example", origin, 300)
	}
	items, kept := 0, 0
	for origin, receipt := range newest {
		got, _ := r.all("b.example", origin, 0)
		for _, one := range got {
			require.Equal(t, receipt, one)
			items, kept = items+len(one.Items), kept+1
		}
	}
	require.LessOrEqual(t, items, 6000+600+300)
	require.GreaterOrEqual(t, kept, 18)
	got, _ = r.all("b.example", "o39.example", 0)
	require.Len(t, got, 1)
	got, _ = r.all("c.example", "a.example", 0)
	require.Equal(t, []wire.Receipt{other}, got)
	require.Less(t, len(r.notes()), 40)
}

// TestManyReceiptsGoAtOnce: a thousand receipts and more may be too many, or too old, at one
// time, and the next one is kept all the same.
func TestManyReceiptsGoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := memorystore.New(memorystore.Options{})
		defer func() { require.NoError(t, mail.Close()) }()
		r := newTestReceipts(t, mail, DefaultMaxReceipts)
		receipt := signedReceipt(t, "b.example", "a.example", wire.ReceiptItem{TransactionID: "t"})
		fill := func() {
			for range 300 {
				_, err := r.keep(t.Context(), "b.example", []wire.Receipt{receipt, receipt, receipt, receipt, receipt, receipt, receipt, receipt})
				require.NoError(t, err)
			}
		}
		fill()
		got, _ := r.all("b.example", "a.example", 0)
		require.LessOrEqual(t, len(got), 2000+8)
		time.Sleep(receiptLasts + time.Hour)
		fill()
		require.NoError(t, r.lookThrough(t.Context(), "b.example", receiptLasts+time.Hour))
		got, _ = r.all("b.example", "a.example", 0)
		require.Len(t, got, 1000)
		require.Len(t, r.notes(), 1000+1)
	})
}

// TestReceiptsOfAllAreBounded: made-up destinations don't fill the store, also after a
// restart, and there is room again when theirs are too old.
func TestReceiptsOfAllAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := memorystore.New(memorystore.Options{})
		defer func() { require.NoError(t, mail.Close()) }()
		const room = 10_000
		config := &Config{Store: mail, MaxReceipts: DefaultMaxReceipts, MaxStoreBytes: roomPart * room}
		r := &testReceipts{t, newKeptReceipts(fewChanges{mail}, config), mail}
		keep := func(name string) int64 {
			by := spec.ServerName(name + ".example")
			grown, err := r.keep(t.Context(), by, []wire.Receipt{signedReceipt(t, by, "a.example", wire.ReceiptItem{TransactionID: "t"})})
			require.NoError(t, err)
			require.NoError(t, r.lookFurther(t.Context()))
			return grown
		}
		sum := int64(0)
		fill := func(name string) {
			for i := range 100 {
				sum += keep(fmt.Sprint(name, i))
			}
			require.LessOrEqual(t, sum, int64(room))
			require.Greater(t, sum, int64(room*9/10))
		}
		fill("first")
		time.Sleep(time.Hour)
		r.keptReceipts = newKeptReceipts(fewChanges{mail}, config)
		fill("second")
		require.Zero(t, keep("b"))
		time.Sleep(receiptLasts)
		sum = 0
		fill("third")
	})
}

// TestReceiptsGrowOld: after 30 days a receipt isn't given out, and it leaves the store
// also where its destination gives no other.
func TestReceiptsGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := memorystore.New(memorystore.Options{})
		defer func() { require.NoError(t, mail.Close()) }()
		r := newTestReceipts(t, mail, DefaultMaxReceipts)
		for i := range 20 {
			r.give(spec.ServerName(fmt.Sprintf("gone%d.example", i)), "a.example", 3)
		}
		r.give("b.example", "a.example", 1)
		time.Sleep(20 * 24 * time.Hour)
		second := r.give("b.example", "a.example", 1)
		time.Sleep(11 * 24 * time.Hour)
		got, last := r.all("b.example", "a.example", 0)
		require.Equal(t, []wire.Receipt{second}, got)
		for range 30 {
			r.give("c.example", "a.example", 1)
		}
		require.Len(t, r.notes(), 1+1+30+1, "one of b, those of c, and their counts")
		time.Sleep(31 * 24 * time.Hour)
		third := r.give("c.example", "a.example", 1)
		for range 3 {
			require.NoError(t, r.lookFurther(t.Context()))
		}
		require.Len(t, r.notes(), 2)
		got, _ = r.all("c.example", "a.example", last)
		require.Equal(t, []wire.Receipt{third}, got)
		r.give("b.example", "a.example", 1)
		got, _ = r.all("b.example", "a.example", last)
		require.Len(t, got, 1, "numbers grow after all have gone")
	})
}

// fewNotes take few changes at once, as those of JetStream do.
type fewNotes struct{ *memorystore.Store }

func (n fewNotes) SetNotes(ctx context.Context, changes []store.Note) error {
	if len(changes) > 800 {
		return fmt.Errorf("%d changes of notes at once", len(changes))
	}
	return n.Store.SetNotes(ctx, changes)
}

// TestManyReceiptsGrowOld: however many there are, they leave the store.
func TestManyReceiptsGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mail := memorystore.New(memorystore.Options{})
		defer func() { require.NoError(t, mail.Close()) }()
		r := newTestReceipts(t, mail, DefaultMaxReceipts)
		r.keptReceipts.notes = fewNotes{mail}
		for range 900 {
			r.give("b.example", "a.example", 1)
		}
		time.Sleep(31 * 24 * time.Hour)
		for range 3 {
			require.NoError(t, r.lookFurther(t.Context()))
		}
		require.Empty(t, r.notes())
	})
}

// TestReceiptsOfStoreSetBack: a sender misses no receipt that is given after a relay was
// set back to an earlier copy, also if its clock isn't set.
func TestReceiptsOfStoreSetBack(t *testing.T) {
	for _, isSet := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)))
			mail, copied := memorystore.New(memorystore.Options{}), memorystore.New(memorystore.Options{})
			defer func() { require.NoError(t, mail.Close()); require.NoError(t, copied.Close()) }()
			r := newTestReceipts(t, mail, DefaultMaxReceipts)
			first := r.give("b.example", "a.example", 1)
			require.NoError(t, copied.SetNotes(t.Context(), r.notes()))
			lost := []wire.Receipt{r.give("b.example", "a.example", 1), r.give("b.example", "a.example", 1)}
			seen, last := r.all("b.example", "a.example", 0)
			require.Equal(t, append([]wire.Receipt{first}, lost...), seen)

			time.Sleep(time.Minute)
			back := newTestReceipts(t, copied, DefaultMaxReceipts)
			if !isSet {
				back.next = 1 // the clock then
			}
			_, next := back.all("b.example", "a.example", last)
			require.Less(t, next, last)
			third := back.give("b.example", "a.example", 1)
			for _, after := range []int64{last, next} {
				got, newest := back.all("b.example", "a.example", after)
				require.Contains(t, got, third, "clock set: %t", isSet)
				require.Greater(t, newest, next)
			}
		})
	}
}

// signedReceipt is a receipt that looks like one of by's.
func signedReceipt(t testing.TB, by, to spec.ServerName, items ...wire.ReceiptItem) wire.Receipt {
	t.Helper()
	identity := HexIdentity(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	identity.ServerName = by
	receipts, err := wire.SignReceipts(to, items, time.Now(), identity)
	require.NoError(t, err)
	require.Len(t, receipts, 1)
	return receipts[0]
}

package relay

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/internal/stripes"
	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// receiptPrefix begins the keys of receipts in the notes; the destination, the origin
	// and a number follow. countPrefix begins those of the destinations' receiptCounts.
	receiptPrefix = "relay/receipt/"
	countPrefix   = "relay/receipts/"

	// receiptLasts is for how long a receipt is kept, by the store's clock.
	receiptLasts = 30 * 24 * time.Hour

	// A destination's receipts are looked through when as many items have come as this
	// part of those that it may have, or after that time, when anybody's receipts come.
	lookThroughPart  = 10
	lookThroughAfter = 24 * time.Hour

	// pairPart is the part of a destination's items that may be for one origin.
	pairPart = 10

	// roomPart is the part of the room for mail that all receipts may take: servers cost
	// nothing, so without it there could be any number of destinations.
	roomPart = 16

	// A receipt of more bytes than these together has something else in it, and isn't kept.
	receiptBytes, itemBytes = 1 << 10, 500
)

// keptReceipts are the receipts in the notes of a store. Their numbers grow, so that a
// sender sees all that came after the last one that it knows.
type keptReceipts struct {
	notes store.Notes
	clock func(context.Context) (time.Duration, error)
	most  int   // items of each destination
	room  int64 // bytes of all, 0: no limit

	writing stripes.Locks
	last    *numbers // the last number of a destination

	counts round // of the destinations' counts

	growing turns.Turn // while it is found whether there is room
	full    time.Time  // when there was none

	mu    sync.Mutex
	next  int64 // the smallest number that may be given
	bytes int64 // of all, -1 before they were counted
}

// A receiptNote is a note.
type receiptNote struct {
	// Kept is when the receipt came, in seconds of the store's clock.
	Kept    int64           `json:"kept"`
	Items   int             `json:"items"`
	Receipt json.RawMessage `json:"receipt"`
}

// A receiptCount is a note about the receipts of a destination.
type receiptCount struct {
	Last   int64 `json:"last"`   // the last number
	Looked int64 `json:"looked"` // when they were looked through, likewise
	Since  int   `json:"since"`  // items that came since
	Bytes  int64 `json:"bytes"`  // of the notes of the receipts
}

func newKeptReceipts(notes store.Notes, config *Config) *keptReceipts {
	return &keptReceipts{
		notes: notes, clock: notebook.Clock(config.Store), most: config.MaxReceipts, room: max(config.MaxStoreBytes/roomPart, 0),
		growing: turns.New(), bytes: -1,
		last: newNumbers(), counts: round{notes: notes, prefix: countPrefix}, next: store.FirstID(time.Now()),
	}
}

// receiptKey is the key of a note; without a number it comes before all of the pair.
func receiptKey(destination, origin spec.ServerName, number int64) string {
	key := receiptPrefix + string(destination) + "/" + string(origin) + "/"
	if number > 0 {
		key += fmt.Sprintf("%016d", number)
	}
	return key
}

// readCount returns the count of a destination, a zero one if there is none.
func (k *keptReceipts) readCount(ctx context.Context, destination spec.ServerName) (count receiptCount, err error) {
	value, err := notebook.Read(ctx, k.notes, countPrefix+string(destination))
	if err != nil {
		return count, fmt.Errorf("relay: reading about receipts: %w", err)
	}
	if value == nil || json.Unmarshal(value, &count) != nil { // one that can't be read is made anew
		count = receiptCount{}
	}
	k.last.set(destination, count.Last)
	return count, nil
}

// lastOf returns the last number of a destination's receipts, 0 if there are none. That
// of another process may be missing, unless it is to be read afresh.
func (k *keptReceipts) lastOf(ctx context.Context, destination spec.ServerName, afresh bool) (int64, error) {
	if last, ok := k.last.get(destination); ok && !afresh {
		return last, nil
	}
	count, err := k.readCount(ctx, destination)
	return count.Last, err
}

// isPlain reports whether a receipt takes as many bytes as its items need.
func isPlain(receipt *wire.Receipt) bool {
	return len(receipt.JSON()) <= receiptBytes+itemBytes*len(receipt.Items)
}

// hasRoom reports whether the receipts of all destinations may take so many bytes more.
// Other processes on the store may take some, too, until it is counted again.
func (k *keptReceipts) hasRoom(ctx context.Context, more int64) (bool, error) {
	if k.room == 0 {
		return true, nil
	}
	if err := k.growing.Take(ctx); err != nil {
		return false, err
	}
	defer k.growing.Give()
	isFull := func() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.bytes < 0 || k.bytes+more > k.room }
	if !isFull() {
		return true, nil
	}
	if time.Since(k.full) < fullFor {
		return false, nil
	}
	all := int64(0)
	err := notebook.Each(ctx, k.notes, countPrefix, func(note store.Note) error {
		var count receiptCount
		_ = json.Unmarshal(note.Value, &count) // one that can't be read is made anew
		all += count.Bytes
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("relay: counting receipts: %w", err)
	}
	k.mu.Lock()
	k.bytes = all
	k.mu.Unlock()
	if isFull() {
		k.full = time.Now()
		return false, nil
	}
	return true, nil
}

// grow notes that the receipts take so many bytes more, or less.
func (k *keptReceipts) grow(bytes int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bytes >= 0 {
		k.bytes = max(k.bytes+bytes, 0)
	}
}

// keep keeps receipts of one destination, whose writing lock the caller has, if there is
// room, and returns by how many bytes the store has grown. Of two processes that write at
// once, a sender may miss the receipts of one; it sends that mail again.
func (k *keptReceipts) keep(ctx context.Context, destination spec.ServerName, receipts []wire.Receipt) (grown int64, err error) {
	now, err := k.clock(ctx)
	if err != nil {
		return 0, fmt.Errorf("relay: the store's clock: %w", err)
	}
	count, err := k.readCount(ctx, destination)
	if err != nil {
		return 0, err
	}
	if count.Last == 0 {
		count.Looked = int64(now / time.Second)
	}
	number := k.number(count.Last, len(receipts))
	var changes []store.Note
	for i := range receipts {
		receipt := &receipts[i]
		value, err := json.Marshal(receiptNote{int64(now / time.Second), len(receipt.Items), receipt.JSON()})
		if err != nil {
			return 0, fmt.Errorf("relay: writing a receipt: %w", err)
		}
		key := receiptKey(destination, receipt.Origin, number+int64(i))
		changes = append(changes, store.Note{Key: key, Value: value})
		grown += int64(len(key) + len(value))
		count.Since += len(receipt.Items)
	}
	count.Last = number + int64(len(receipts)) - 1
	count.Bytes += grown
	if ok, err := k.hasRoom(ctx, grown); !ok {
		return 0, err
	}
	if err := k.write(ctx, destination, count, changes); err != nil {
		return 0, err
	}
	k.grow(grown)
	if count.Since*lookThroughPart > k.most {
		err = k.lookThrough(ctx, destination, now)
	}
	return grown, err
}

// number returns the first of so many numbers that are greater than last and than all
// that were given before.
func (k *keptReceipts) number(last int64, count int) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	number := max(k.next, last+1)
	k.next = number + int64(count)
	return number
}

// write writes the count of a destination with other changes. A zero one is none.
func (k *keptReceipts) write(ctx context.Context, destination spec.ServerName, count receiptCount, changes []store.Note) error {
	note := store.Note{Key: countPrefix + string(destination)}
	if count != (receiptCount{}) {
		value, err := json.Marshal(count)
		if err != nil {
			return fmt.Errorf("relay: writing about receipts: %w", err)
		}
		note.Value = value
	}
	if err := k.notes.SetNotes(ctx, append(changes, note)); err != nil {
		return fmt.Errorf("relay: writing receipts: %w", err)
	}
	k.last.set(destination, count.Last)
	return nil
}

// A heldReceipt is a receipt in the notes that isn't too old.
type heldReceipt struct {
	key   string
	items int
	bytes int64
}

// pair names the destination and the origin, number is as in the key.
func (h *heldReceipt) pair() string   { return h.key[:strings.LastIndexByte(h.key, '/')] }
func (h *heldReceipt) number() string { return h.key[strings.LastIndexByte(h.key, '/'):] }

// lookThrough takes away the receipts of a destination that are too old, and the oldest
// of those that are too many. The caller has its writing lock.
func (k *keptReceipts) lookThrough(ctx context.Context, destination spec.ServerName, now time.Duration) error {
	var held []heldReceipt
	var away []store.Note
	err := notebook.Each(ctx, k.notes, receiptPrefix+string(destination)+"/", func(note store.Note) error {
		if read := readReceiptNote(note.Value, now); read != nil {
			held = append(held, heldReceipt{note.Key, read.Items, int64(len(note.Key) + len(note.Value))})
		} else {
			away = append(away, store.Note{Key: note.Key})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("relay: looking through receipts: %w", err)
	}
	slices.SortFunc(held, func(a, b heldReceipt) int { return cmp.Compare(b.number(), a.number()) })
	all, bytes, pairs := 0, int64(0), make(map[string]int)
	for _, one := range held {
		pair := one.pair()
		if all+one.items > k.most || pairs[pair]+one.items > max(k.most/pairPart, wire.MaxReceiptItems) {
			away = append(away, store.Note{Key: one.key})
			pairs[pair] = k.most // so that no older one is kept in its place
			continue
		}
		all, bytes, pairs[pair] = all+one.items, bytes+one.bytes, pairs[pair]+one.items
	}
	count, err := k.readCount(ctx, destination)
	if err != nil {
		return err
	}
	if err := notebook.Remove(ctx, k.notes, away); err != nil {
		return fmt.Errorf("relay: removing receipts: %w", err)
	}
	less := bytes - count.Bytes
	count.Looked, count.Since, count.Bytes = int64(now/time.Second), 0, bytes
	if bytes == 0 {
		count = receiptCount{}
	}
	if err := k.write(ctx, destination, count, nil); err != nil {
		return err
	}
	k.grow(less)
	return nil
}

// readReceiptNote returns nil for a receipt that is too old, or can't be read.
func readReceiptNote(value []byte, now time.Duration) *receiptNote {
	var note receiptNote
	if json.Unmarshal(value, &note) != nil || now-time.Duration(note.Kept)*time.Second > receiptLasts {
		return nil
	}
	return &note
}

// lookFurther looks the receipts of the next destinations through, in turn, if they
// haven't been for long: those that nobody adds to would else be kept for ever. The
// caller has no lock.
func (k *keptReceipts) lookFurther(ctx context.Context) error {
	now, err := k.clock(ctx)
	if err != nil {
		return fmt.Errorf("relay: the store's clock: %w", err)
	}
	return k.counts.step(ctx, func(destination spec.ServerName, value []byte) error {
		var count receiptCount
		_ = json.Unmarshal(value, &count) // one that can't be read is looked through
		if now-time.Duration(count.Looked)*time.Second < lookThroughAfter {
			return nil
		}
		unlock, err := k.writing.Take(ctx, destination)
		if err != nil {
			return err
		}
		defer unlock()
		return k.lookThrough(ctx, destination, now)
	})
}

// after returns the receipts that destination has given origin, of those with a greater
// number than after: at most so many bytes, but always one if there is one.
func (k *keptReceipts) after(ctx context.Context, destination, origin spec.ServerName, after int64, bytes int) (wire.NewReceipts, error) {
	last, err := k.lastOf(ctx, destination, false)
	if err == nil && after > last {
		last, err = k.lastOf(ctx, destination, true)
	}
	found := wire.NewReceipts{Next: last}
	if err != nil || after == last {
		return found, err
	}
	if after > last { // the store was set back: receipts that came since have other numbers
		after = 0
	}
	now, err := k.clock(ctx)
	if err != nil {
		return found, fmt.Errorf("relay: the store's clock: %w", err)
	}
	prefix := receiptKey(destination, origin, 0)
	list, err := k.notes.Notes(ctx, prefix, receiptKey(destination, origin, after), wire.MaxReceipts)
	if err != nil {
		return found, fmt.Errorf("relay: reading receipts: %w", err)
	}
	shown := after
	for _, note := range list {
		read := readReceiptNote(note.Value, now)
		if read != nil {
			if bytes -= len(read.Receipt); bytes < 0 && len(found.Receipts) > 0 {
				found.Next = shown
				return found, nil
			}
			found.Receipts = append(found.Receipts, read.Receipt)
		}
		if shown, err = strconv.ParseInt(note.Key[len(prefix):], 10, 64); err != nil {
			return found, fmt.Errorf("relay: reading receipts: a note that isn't ours: %w", err)
		}
	}
	if len(list) == wire.MaxReceipts {
		found.Next = shown
	}
	return found, nil
}

package client

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// own has all that is kept about this server's own record, as JSON.
type own struct {
	Text json.RawMessage `json:"record"`

	// Made is when it was signed, in seconds since 1970, and Key the ID of the key.
	Made int64                   `json:"made"`
	Key  gomatrixserverlib.KeyID `json:"key"`

	// Left are relays that it doesn't name and an earlier one does, and when that one
	// expires, in milliseconds: until then others may leave mail there.
	Left map[spec.ServerName]uint64 `json:"left,omitempty"`

	// Owed are relays that it is to be brought to.
	Owed []spec.ServerName `json:"owed,omitempty"`

	// Next, if there are any, are the relays that the next record is to name, which is
	// signed once this one is old enough. Ended says that there is to be none.
	Next  []wire.RecordRelay `json:"next,omitempty"`
	Ended bool               `json:"ended,omitempty"`

	// Shown, if there is one, is a record of this server that it didn't know and was shown while
	// it could sign none above it. Left has its relays.
	Shown json.RawMessage `json:"shown,omitempty"`

	record, shown *wire.RelayRecord
}

func readOwn(value []byte) (*own, error) {
	read := &own{}
	if err := json.Unmarshal(value, read); err != nil {
		return nil, err
	}
	record, err := wire.ReadRelayRecord(read.Text)
	read.record = &record
	if err != nil || len(read.Shown) == 0 {
		return read, err
	}
	shown, err := wire.ReadRelayRecord(read.Shown)
	read.shown = &shown
	return read, err
}

// wanted are the relays that this server's record is to name, now or later.
func (o *own) wanted() []wire.RecordRelay {
	switch {
	case o.Ended:
		return nil
	case o.Next != nil:
		return o.Next
	}
	return o.record.Relays
}

// relays are those from which mail is to be fetched: also those that the next record names,
// and those that were left, until the last record that names them has expired.
func (o *own) relays(now time.Time) []spec.ServerName {
	isPast := func(ms uint64) bool { return uint64(max(now.UnixMilli(), 0)) >= ms }
	all := namesOf(o.Next)
	if !o.Ended || !isPast(o.record.Expires) {
		all = append(all, namesOf(o.record.Relays)...)
	}
	for relay, until := range o.Left {
		if !isPast(until) {
			all = append(all, relay)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// addresses are those of a relay.
func (o *own) addresses(relay spec.ServerName) []string {
	if isIn(o.Next, relay) {
		return addressesIn(&wire.RelayRecord{Relays: o.Next}, relay)
	}
	return addressesIn(o.record, relay)
}

// rest is for how long no other record may be signed. A time that is to come was said by a
// wrong clock.
func (o *own) rest(now time.Time) time.Duration {
	age := now.Sub(time.Unix(o.Made, 0))
	if age < 0 {
		return 0
	}
	return max(announceEvery-age, 0)
}

// isDue reports whether another record is to be signed.
func (a *announcer) isDue(o *own, now time.Time) bool {
	if o.Ended || o.rest(now) > 0 && o.Key == a.self.KeyID {
		return false
	}
	age := now.Sub(time.Unix(o.Made, 0))
	return o.Next != nil || age >= renewAfter || age < 0 && !o.record.IsFresh(now) || o.Key != a.self.KeyID || o.record.Receipts != a.receipts
}

func isIn(relays []wire.RecordRelay, name spec.ServerName) bool {
	return slices.ContainsFunc(relays, func(r wire.RecordRelay) bool { return r.Name == name })
}

func without(relays []wire.RecordRelay, name spec.ServerName) []wire.RecordRelay {
	return slices.DeleteFunc(slices.Clone(relays), func(r wire.RecordRelay) bool { return r.Name == name })
}

func isSameRelay(one, other wire.RecordRelay) bool {
	return one.Name == other.Name && slices.Equal(one.At, other.At)
}

func namesOf(relays []wire.RecordRelay) (names []spec.ServerName) {
	for _, relay := range relays {
		names = append(names, relay.Name)
	}
	return names
}

// draft makes a record above the one before, which may be nil, and the one that it was shown.
func (a *announcer) draft(relays []wire.RecordRelay, before *own) (wire.RelayRecord, error) {
	now, greatest := time.Now(), uint64(0)
	if before != nil {
		greatest = before.record.Seq
		if before.shown != nil {
			greatest = max(greatest, before.shown.Seq)
		}
	}
	record, err := wire.SignRelayRecord(wire.RelayRecord{
		Seq: wire.NextSeq(now, greatest), Expires: uint64(max(now.Add(freshFor).UnixMilli(), 0)), Relays: relays, Receipts: a.receipts,
	}, a.self)
	if err != nil {
		return wire.RelayRecord{}, fmt.Errorf("client: own record: %w", err)
	}
	return record, nil
}

// sign makes a record above the one before, which may be nil, and keeps it.
func (a *announcer) sign(ctx context.Context, relays []wire.RecordRelay, before *own) error {
	record, err := a.draft(relays, before)
	if err != nil {
		return err
	}
	left, owed := make(map[spec.ServerName]uint64), namesOf(relays)
	if before != nil {
		maps.Copy(left, before.Left)
		for _, relay := range namesOf(before.record.Relays) {
			left[relay] = max(left[relay], before.record.Expires)
		}
		owed = append(owed, before.Owed...)
	}
	for _, relay := range relays {
		delete(left, relay.Name)
	}
	for relay, until := range left {
		if until < setClock { // which says nothing: it may be in use as long as ours
			left[relay] = max(until, record.Expires)
		}
	}
	forgetOldest(left)
	owed = slices.AppendSeq(owed, maps.Keys(left)) // see bring
	slices.Sort(owed)
	return a.keep(ctx, own{
		Made: time.Now().Unix(), Key: a.self.KeyID, Left: left, Owed: slices.Compact(owed), record: &record,
	})
}

// forgetOldest bounds the relays that were left. It doesn't go by the clock, which may be
// wrong now: one that has expired isn't used, and is there if the clock is set right.
func forgetOldest(left map[spec.ServerName]uint64) {
	for len(left) > maxLeft {
		delete(left, slices.MinFunc(slices.Collect(maps.Keys(left)), func(a, b spec.ServerName) int {
			return cmp.Compare(left[a], left[b])
		}))
	}
}

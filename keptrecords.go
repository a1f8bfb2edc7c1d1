package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/internal/stripes"
	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	// recordPrefix begins the keys of records in the notes; a server's name follows.
	recordPrefix = "relay/record/"

	// recordLasts is for how long a record that doesn't change is kept, by the store's
	// clock.
	recordLasts = 180 * 24 * time.Hour

	// fullFor is for how long it isn't counted again whether there is room, since all
	// records are read for that.
	fullFor = time.Hour
)

// keptRecords are the records in the notes of a store.
type keptRecords struct {
	notes store.Notes
	clock func(context.Context) (time.Duration, error)
	most  int

	writing stripes.Locks

	growing turns.Turn // while a record of another server comes
	count   int        // of records, -1 before they were counted
	full    time.Time  // when there was no room

	seqs *numbers // 0 if there is no record
}

// A recordNote is a note.
type recordNote struct {
	// Changed is when the record came, in seconds of the store's clock.
	Changed int64           `json:"changed"`
	Record  json.RawMessage `json:"record"`
}

func newKeptRecords(notes store.Notes, config *Config) *keptRecords {
	return &keptRecords{
		notes: notes, clock: notebook.Clock(config.Store), most: config.MaxRecords, count: -1, growing: turns.New(),
		seqs: newNumbers(),
	}
}

// get returns the record of a server, nil if there is none.
func (k *keptRecords) get(ctx context.Context, server spec.ServerName) (*wire.RelayRecord, error) {
	value, err := notebook.Read(ctx, k.notes, recordPrefix+string(server))
	if err != nil {
		return nil, fmt.Errorf("relay: reading a record: %w", err)
	}
	now, err := k.clock(ctx)
	if err != nil {
		return nil, fmt.Errorf("relay: the store's clock: %w", err)
	}
	record := readRecordNote(value, now)
	k.remember(server, record)
	return record, nil
}

// readRecordNote returns nil for a record that is too old, and for one that can't be
// read: then its server, or anybody that knows it, brings it again.
func readRecordNote(value []byte, now time.Duration) *wire.RelayRecord {
	var note recordNote
	if value == nil || json.Unmarshal(value, &note) != nil || now-time.Duration(note.Changed)*time.Second > recordLasts {
		return nil
	}
	record, err := wire.ReadRelayRecord(note.Record)
	if err != nil {
		return nil
	}
	return &record
}

// replace keeps a record in place of held, which may be nil, unless another than held is
// kept by now, and returns by how many bytes the store has grown. Of two processes that
// write at once the older record may stay: a server that knows the newer one brings it again.
func (k *keptRecords) replace(ctx context.Context, held, record *wire.RelayRecord) (grown int64, kept bool, err error) {
	unlock, err := k.writing.Take(ctx, record.Server)
	if err != nil {
		return 0, false, err
	}
	defer unlock()
	now, err := k.get(ctx, record.Server)
	if err != nil || !isSame(now, held) {
		return 0, false, err
	}
	grown, err = k.set(ctx, record, held)
	return grown, err == nil, err
}

// isSame reports whether two records, each of which may be nil, say the same.
func isSame(one, other *wire.RelayRecord) bool {
	if one == nil || other == nil {
		return one == other
	}
	return one.Hash() == other.Hash()
}

// set keeps a record in place of held, which may be nil, and returns by how many bytes
// the store has grown.
func (k *keptRecords) set(ctx context.Context, record, held *wire.RelayRecord) (grown int64, err error) {
	now, err := k.clock(ctx)
	if err != nil {
		return 0, fmt.Errorf("relay: the store's clock: %w", err)
	}
	value, err := json.Marshal(recordNote{int64(now / time.Second), record.JSON()})
	if err != nil {
		return 0, fmt.Errorf("relay: writing a record: %w", err)
	}
	note := store.Note{Key: recordPrefix + string(record.Server), Value: value}
	if grown = int64(len(record.JSON())); held != nil {
		grown, err = max(grown-int64(len(held.JSON())), 0), k.write(ctx, note)
	} else {
		err = k.add(ctx, note, now)
	}
	if err != nil {
		return 0, err
	}
	k.remember(record.Server, record)
	return grown, nil
}

func (k *keptRecords) write(ctx context.Context, note store.Note) error {
	if err := k.notes.SetNotes(ctx, []store.Note{note}); err != nil {
		return fmt.Errorf("relay: writing a record: %w", err)
	}
	return nil
}

// add keeps one more record. If there are too many it takes away those that are too old.
func (k *keptRecords) add(ctx context.Context, note store.Note, now time.Duration) error {
	if err := k.growing.Take(ctx); err != nil {
		return err
	}
	defer k.growing.Give()
	if k.count < 0 || k.count >= k.most && time.Since(k.full) >= fullFor {
		if err := k.sweep(ctx, now); err != nil {
			return err
		}
		k.full = time.Now()
	}
	if k.count >= k.most {
		return &wire.Error{
			Status: http.StatusInsufficientStorage, Code: wire.ErrorResourceLimitExceeded,
			Message: "there is no room for another record",
		}
	}
	if err := k.write(ctx, note); err != nil {
		return err
	}
	k.count++
	return nil
}

// sweep takes away the records that are too old, and counts the others. The caller has
// taken growing.
func (k *keptRecords) sweep(ctx context.Context, now time.Duration) error {
	var old []store.Note
	count := 0
	err := notebook.Each(ctx, k.notes, recordPrefix, func(note store.Note) error {
		if readRecordNote(note.Value, now) == nil {
			old = append(old, store.Note{Key: note.Key})
		} else {
			count++
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("relay: counting records: %w", err)
	}
	if err := notebook.Remove(ctx, k.notes, old); err != nil {
		return fmt.Errorf("relay: removing old records: %w", err)
	}
	k.count = count
	return nil
}

// seq returns the number of a server's record, 0 if there is none or it can't be read
// now.
func (k *keptRecords) seq(ctx context.Context, server spec.ServerName) uint64 {
	if seq, ok := k.seqs.get(server); ok {
		return uint64(seq)
	}
	record, err := k.get(ctx, server)
	if err != nil || record == nil {
		return 0
	}
	return record.Seq
}

func (k *keptRecords) remember(server spec.ServerName, record *wire.RelayRecord) {
	var seq uint64
	if record != nil {
		seq = record.Seq
	}
	k.seqs.set(server, int64(seq))
}

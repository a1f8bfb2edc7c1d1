package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
)

// maxAhead is by how much the clock of the other machine may be ahead: so long is waited.
const maxAhead = 10 * time.Second

func (m *moveCommand) checkDestination() error {
	switch {
	case m.from != "":
		return errors.New("--move-from is for all mail: with --destination, --admin says which relay has the mailbox")
	case m.admin.address == "" || m.db == "":
		return errors.New("--destination needs --admin and --db")
	case m.db == inMemory:
		return errors.New("--db: mail that is moved into memory is lost")
	}
	if _, err := nameOf(m.destination); err != nil {
		return fmt.Errorf("--destination: %w", err)
	}
	return errors.Join(checkDB("--db", m.db), m.nats.check(m.db))
}

// A mailboxMove moves a mailbox. Each step may be done twice: mail is removed when the
// other database has it on the disk, and mail that it has already is a copy there.
type mailboxMove struct {
	from    admin.Operator
	to      store.Store
	name    spec.ServerName
	firstID int64 // that to gives; it was opened after all that from gives
	seen    int64 // the last ID in to that is known to be there
	moved   int
}

func (m *moveCommand) moveMailbox(c *cobra.Command, log *slog.Logger) (err error) {
	ctx := c.Context()
	from, err := m.admin.connect(m.admin.address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if err := awaitClock(ctx, from); err != nil {
		return explainUnanswered(m.admin.address, err)
	}
	opened := time.Now()
	to, err := openExisting(ctx, m.db, m.nats, log)
	if err != nil {
		return fmt.Errorf("--db: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	one := &mailboxMove{from: from, to: to, name: spec.ServerName(m.destination), firstID: store.FirstID(opened)}
	if err := one.all(ctx); err != nil {
		return explainUnanswered(m.admin.address, err)
	}
	return show(c, fmt.Sprintf("%d transactions for %s are in %s now: start its relay, and lead requests for that mailbox there", one.moved, one.name, shownDB(m.db)),
		map[string]any{"db": shownDB(m.db), "destination": one.name, "entries": one.moved})
}

// awaitClock waits until this machine's clock is past that of the relay. The IDs that a
// database gives begin at the time when it was opened: those of the mail that is moved must
// come after those that the relay has given, which receivers may still acknowledge.
func awaitClock(ctx context.Context, from admin.Operator) error {
	status, err := from.Status(ctx)
	if err != nil {
		return err
	}
	ahead := time.Until(status.Now.Add(time.Second)) // it is in whole seconds
	if ahead > maxAhead {
		return fmt.Errorf("the relay's machine has %s, and this one is behind: set its clock first", status.Now.Format(time.DateTime))
	}
	select {
	case <-time.After(ahead):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// all moves the mail, and then all that the relay remembers of the server: so a move that is
// refused brings nothing over that is old by the next time.
func (m *mailboxMove) all(ctx context.Context) error {
	managed, isManaged := m.to.(store.Managed)
	notes, hasNotes := m.to.(store.Notes)
	if !isManaged || !hasNotes {
		return errors.New("--db isn't one that a relay can be moved to")
	}
	if err := m.checkOther(ctx, notes); err != nil {
		return err
	}
	if err := m.mail(ctx, managed); err != nil {
		return err
	}
	return m.facts(ctx, notes)
}

// probePrefix is that of notes that Facts tells. A relay removes those that are no records.
const probePrefix = "relay/record/"

// checkOther refuses a database that the relay itself uses: mail would be a copy of itself
// there, and then be removed.
func (m *mailboxMove) checkOther(ctx context.Context, notes store.Notes) error {
	name := rand.Text() + ".invalid"
	if err := notes.SetNotes(ctx, []store.Note{{Key: probePrefix + name, Value: []byte("probe")}}); err != nil {
		return err
	}
	found, err := m.from.Facts(ctx, spec.ServerName(name))
	if err := errors.Join(err, notes.SetNotes(ctx, []store.Note{{Key: probePrefix + name}})); err != nil {
		return err
	}
	if len(found) > 0 {
		return errors.New("--db is the same database that the relay at --admin uses")
	}
	return nil
}

// notesAtOnce is how many notes are written in one step.
const notesAtOnce = 500

// facts takes over all that the relay remembers of the server, and has it forget that: else a
// move back would meet an old policy. Anything that is there already stays: the move may
// have been ended, and the other relay may have been in use since.
func (m *mailboxMove) facts(ctx context.Context, notes store.Notes) error {
	facts, err := m.from.Facts(ctx, m.name)
	if err != nil || len(facts) == 0 {
		return err
	}
	now, err := notebook.Clock(m.to)(ctx)
	if err != nil {
		return err
	}
	_, tells := m.to.(store.Timed)
	var changes []store.Note
	for _, fact := range facts {
		there, err := notebook.Read(ctx, notes, fact.Key)
		if err != nil {
			return err
		}
		if there == nil {
			changes = append(changes, noteOf(fact, now, tells))
		}
	}
	for some := range slices.Chunk(changes, notesAtOnce) {
		if err := notes.SetNotes(ctx, some); err != nil {
			return err
		}
	}
	return m.from.Forget(ctx, m.name)
}

// noteOf is a fact as a database has to keep it whose clock stands there, if it tells: each counts
// by a clock of its own.
func noteOf(fact admin.Fact, now time.Duration, tells bool) store.Note {
	note := store.Note{Key: fact.Key, Value: fact.Value}
	if fact.Clock == 0 || !tells {
		return note
	}
	return notebook.Shifted(note, now-time.Duration(fact.Clock)*time.Second)
}

// mail moves page after page, in order, until the mailbox is empty.
func (m *mailboxMove) mail(ctx context.Context, to store.Managed) error {
	for {
		page, err := m.from.Entries(ctx, admin.EntryQuery{Mailbox: m.name, Limit: admin.MaxPage, Bodies: true})
		if err != nil || len(page) == 0 {
			return err
		}
		batch, err := m.put(ctx, page)
		if err != nil {
			return err
		}
		if err := m.confirm(ctx, to, batch); err != nil {
			return err
		}
		moved := admin.Purge{Mailbox: m.name, UpTo: page[len(page)-1].ID}
		if _, err := admin.PurgeAll(ctx, m.from, moved, nil); err != nil {
			return err
		}
		m.moved += len(page)
	}
}

func (m *mailboxMove) put(ctx context.Context, page []admin.Entry) ([]store.Mail, error) {
	batch := make([]store.Mail, len(page))
	for i := range page {
		one, err := m.mailOf(&page[i])
		if err != nil {
			return nil, fmt.Errorf("transaction %q of %s: %w", page[i].TransactionID, page[i].Origin, err)
		}
		batch[i] = one
	}
	return batch, putAll(ctx, m.to, batch)
}

// A mailKey has the fields by which a store tells copies.
type mailKey struct {
	origin spec.ServerName
	id     gomatrixserverlib.TransactionID
	digest store.Digest
}

// confirm sees that the other database has mail that was put there. One that was moved out
// of it, or fetched there, within a day is taken for a copy and not stored.
func (m *mailboxMove) confirm(ctx context.Context, to store.Managed, batch []store.Mail) error {
	missing := make(map[mailKey]bool)
	for i := range batch {
		missing[mailKey{batch[i].Origin, batch[i].TransactionID, batch[i].Digest}] = true
	}
	for _, after := range []int64{m.seen, 0} { // mostly it came last
		for len(missing) > 0 {
			listed, err := to.List(ctx, m.name, after, admin.MaxPage)
			if err != nil {
				return err
			}
			if len(listed) == 0 {
				break
			}
			for _, one := range listed {
				delete(missing, mailKey{one.Origin, one.TransactionID, one.Digest})
			}
			after = listed[len(listed)-1].ID
			m.seen = max(m.seen, after)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("--db remembers %d transactions as fetched there, or moved out of it, so it doesn't take them until its relay has run for a day; they stay where they are", len(missing))
	}
	return nil
}

func (m *mailboxMove) mailOf(e *admin.Entry) (mail store.Mail, err error) {
	if e.ID >= m.firstID {
		return mail, errors.New("its ID is greater than those that this machine gives by its clock")
	}
	mail = store.Mail{
		Destination: m.name, Origin: e.Origin, TransactionID: e.TransactionID, Body: e.Body, Proof: e.Proof,
		Lifetime: time.Duration(e.ExpiresMS) * time.Millisecond,
	}
	if len(e.RawID) > 0 {
		mail.TransactionID = gomatrixserverlib.TransactionID(e.RawID)
	}
	digest, err := base64.RawURLEncoding.DecodeString(e.Digest)
	if err != nil || copy(mail.Digest[:], digest) != len(mail.Digest) || len(digest) != len(mail.Digest) {
		return mail, errors.New("its digest can't be read")
	}
	return mail, errors.Join(mail.Check(), checkBody(&mail))
}

package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/admin"
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
// other database has it on the disk, and what that has already is a copy there.
type mailboxMove struct {
	from    admin.Operator
	to      store.Store
	name    spec.ServerName
	firstID int64 // that to gives; it was opened after all that from gives
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
	if err = one.facts(ctx); err == nil {
		err = one.mail(ctx)
	}
	if err != nil {
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

// facts takes over what the relay remembers of the server. Anything that is there already
// stays: the move may have been ended, and the other relay may have been in use since.
func (m *mailboxMove) facts(ctx context.Context) error {
	facts, err := m.from.Facts(ctx, m.name)
	if err != nil {
		return err
	}
	notes, ok := m.to.(store.Notes)
	if !ok && len(facts) > 0 {
		return errors.New("--db has no notes, so what the relay remembers of the server would be lost")
	}
	var changes []store.Note
	for _, fact := range facts {
		there, err := notes.Notes(ctx, fact.Key, "", 1)
		if err != nil {
			return err
		}
		if len(there) == 0 || there[0].Key != fact.Key {
			changes = append(changes, store.Note{Key: fact.Key, Value: fact.Value})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return notes.SetNotes(ctx, changes)
}

// mail moves page after page, in order, until the mailbox is empty.
func (m *mailboxMove) mail(ctx context.Context) error {
	for {
		page, err := m.from.Entries(ctx, admin.EntryQuery{Mailbox: m.name, Limit: admin.MaxPage, Bodies: true})
		if err != nil || len(page) == 0 {
			return err
		}
		if err := m.put(ctx, page); err != nil {
			return err
		}
		moved := admin.Purge{Mailbox: m.name, UpTo: page[len(page)-1].ID}
		if _, err := admin.PurgeAll(ctx, m.from, moved, nil); err != nil {
			return err
		}
		m.moved += len(page)
	}
}

func (m *mailboxMove) put(ctx context.Context, page []admin.Entry) error {
	batch := make([]store.Mail, len(page))
	for i := range page {
		one, err := m.mailOf(&page[i])
		if err != nil {
			return fmt.Errorf("transaction %q of %s: %w", page[i].TransactionID, page[i].Origin, err)
		}
		batch[i] = one
	}
	return putAll(ctx, m.to, batch)
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

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

const (
	exportHelp = `Write all mail of a database that no relay uses to the standard output, as JSON lines:
mailbox after mailbox, each in order. All databases have the same form. Mail that is
remembered only so that copies of it are recognised isn't in it, nor are blocks, invites
that were used, and anything else that isn't mail. Mail that can't be read is left out, and
the exit status is 5 then. It says at the end how many transactions it wrote, and relay
import how many it read: a file that was cut off has less.

  relay export --db relay.db > mail.jsonl`

	importHelp = `Read mail in the form of relay export from the standard input, and put it into a
database that no relay uses. If it fails or is ended, the first part of the mail is there, and
the same command goes on: mail that is there already isn't stored again.

  relay import --db postgres://relay@db.example/relay < mail.jsonl`

	// importStep is how much mail is stored at once, and maxLine bounds a line: a
	// transaction with its proof is smaller by far.
	importStep = 64
	maxLine    = 256 << 20

	// exportPage and exportBytes are how much is read at once.
	exportPage  = 256
	exportBytes = 4 << 20
)

// An exported is mail as a line.
type exported struct {
	Destination   anyText `json:"destination"`
	Origin        anyText `json:"origin"`
	TransactionID anyText `json:"transaction_id"`
	Digest        []byte  `json:"digest"`
	Body          []byte  `json:"body"` // bytes, since the signature is for these
	Proof         []byte  `json:"proof,omitempty"`
	LifetimeMS    int64   `json:"lifetime_ms,omitempty"` // the rest of it; 0: for ever
}

// An anyText is a JSON string, or {"base64": "..."} if it isn't UTF-8, as names in a
// store needn't be.
type anyText string

type notUTF8 struct {
	Base64 []byte `json:"base64"`
}

// MarshalJSON implements json.Marshaler.
func (t anyText) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(notUTF8{[]byte(t)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *anyText) UnmarshalJSON(encoded []byte) error {
	if len(encoded) > 0 && encoded[0] == '"' {
		return json.Unmarshal(encoded, (*string)(t))
	}
	var other notUTF8
	err := json.Unmarshal(encoded, &other)
	*t = anyText(other.Base64)
	return err
}

// fileOptions are those of commands on a database that no relay uses.
type fileOptions struct {
	db   string
	nats natsFlags
}

func (o *fileOptions) command(use, short, long string, do func(context.Context, *cobra.Command, store.Store) error, open func(context.Context, string, natsFlags, *slog.Logger) (store.Store, error)) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, GroupID: groupOperate, Args: noArgs}
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if err := errors.Join(checkDB("--db", o.db), o.nats.check(o.db)); err != nil {
			return usageError{err}
		}
		if o.db == "" || o.db == inMemory {
			return usageError{errors.New("--db is required, and not " + inMemory)}
		}
		log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
		mail, err := open(c.Context(), o.db, o.nats, log)
		if err != nil {
			return fmt.Errorf("--db: %w", err)
		}
		defer func() { err = errors.Join(err, mail.Close()) }()
		return do(c.Context(), c, mail)
	}
	c.Flags().StringVar(&o.db, "db", "", "the `DATABASE`: see relay serve (required)")
	o.nats.clientFlags(c.Flags())
	return c
}

func newExport() *cobra.Command {
	return new(fileOptions).command("export", "Write all mail as JSON lines", exportHelp, export, openExisting)
}

func newImport() *cobra.Command {
	return new(fileOptions).command("import", "Read mail as JSON lines", importHelp, importMail, openStore)
}

// export writes both halves of a store.
func export(ctx context.Context, c *cobra.Command, mail store.Store) error {
	out := bufio.NewWriterSize(c.OutOrStdout(), 1<<20)
	lines, written := json.NewEncoder(out), 0
	for _, after := range []spec.ServerName{"", store.PrivateHalf} {
		for {
			page, err := mail.Destinations(ctx, after, exportPage)
			if err != nil {
				return err
			}
			if len(page) == 0 {
				break
			}
			for _, destination := range page {
				n, err := exportMailbox(ctx, lines, mail, destination)
				if err != nil {
					return err
				}
				written += n
			}
			after = page[len(page)-1]
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	c.PrintErrf("%d transactions were written\n", written) // a file that was cut off after a line looks whole
	held, err := holds(ctx, mail)
	if err == nil && held.SetAside > 0 {
		c.PrintErrf("%d transactions couldn't be read\n", held.SetAside)
		return errProblems
	}
	return err
}

func exportMailbox(ctx context.Context, lines *json.Encoder, mail store.Store, destination spec.ServerName) (written int, err error) {
	for after := int64(0); ; {
		page, err := mail.Next(ctx, destination, after, exportPage, exportBytes)
		if errors.Is(err, store.ErrEmpty) {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		for _, e := range page {
			after = e.ID
			line := exported{anyText(e.Destination), anyText(e.Origin), anyText(e.TransactionID), e.Digest[:], e.Body, e.Proof, e.Lifetime.Milliseconds()}
			if err := lines.Encode(line); err != nil {
				return written, err
			}
			written++
		}
	}
}

// importMail puts some mail at a time. Mail of one destination stays in order.
func importMail(ctx context.Context, c *cobra.Command, mail store.Store) error {
	lines := bufio.NewScanner(c.InOrStdin())
	lines.Buffer(make([]byte, 64<<10), maxLine)
	var batch []store.Mail
	read := 0
	for lines.Scan() {
		read++
		one, err := readExported(lines.Bytes())
		if err != nil {
			return fmt.Errorf("line %d: %w", read, err)
		}
		if len(batch) == importStep || len(batch) > 0 && batch[0].Destination != one.Destination {
			if err := putAll(ctx, mail, batch); err != nil {
				return fmt.Errorf("before line %d: %w", read, err)
			}
			batch = batch[:0:0]
		}
		batch = append(batch, one)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("after line %d: %w", read, err)
	}
	if err := putAll(ctx, mail, batch); err != nil {
		return err
	}
	held, err := holds(ctx, mail)
	if err != nil {
		return err
	}
	return show(c, fmt.Sprintf("%d transactions were read; the database holds %d now, of %s", read, held.Entries, bytesText(held.Bytes)),
		map[string]any{"read": read, "entries": held.Entries, "bytes": held.Bytes})
}

func readExported(line []byte) (m store.Mail, err error) {
	var e exported
	if err := json.Unmarshal(line, &e); err != nil {
		return m, err
	}
	m = store.Mail{
		Destination: spec.ServerName(e.Destination), Origin: spec.ServerName(e.Origin), Body: e.Body, Proof: e.Proof,
		TransactionID: gomatrixserverlib.TransactionID(e.TransactionID), Lifetime: time.Duration(e.LifetimeMS) * time.Millisecond,
	}
	if copy(m.Digest[:], e.Digest) != len(m.Digest) || len(e.Digest) != len(m.Digest) {
		return m, errors.New("the digest hasn't 32 bytes")
	}
	if m.Lifetime < 0 || m.Lifetime.Milliseconds() != e.LifetimeMS {
		return m, errors.New("the lifetime isn't one that can be")
	}
	if err := m.Check(); err != nil {
		return m, err
	}
	return m, checkBody(&m)
}

// checkBody refuses a body that was changed. One that isn't JSON would spoil the answer
// that it is in, and the mailbox's owner would get nothing more. Private mail isn't given
// to anybody.
func checkBody(m *store.Mail) error {
	if store.IsPrivate(m.Destination) {
		return nil
	}
	content, err := wire.ReadContent(m.Body)
	if err == nil && content.Digest != m.Digest {
		err = errors.New("it has another digest")
	}
	if err != nil {
		return fmt.Errorf("the body: %w", err)
	}
	return nil
}

// putAll stores mail of one destination, with one commit if the store can.
func putAll(ctx context.Context, mail store.Store, batch []store.Mail) error {
	if batches, ok := mail.(store.Batches); ok && len(batch) > 0 {
		return batches.PutAll(ctx, batch)
	}
	for _, one := range batch {
		if _, err := mail.Put(ctx, one, store.Limits{}); err != nil {
			return err
		}
	}
	return nil
}

package admin

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/internal/defaults"
	"github.com/matrixrelay/relay/internal/turns"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// Config of a Desk. Only Store is required.
type Config struct {
	// Store is the relay's. It must have the ability store.Managed.
	Store store.Store

	// ServerName and Version are shown in Status.
	ServerName spec.ServerName
	Version    string

	// MaxEntries and MaxBytes are shown in Status: relay.Config.MaxStoreEntries and
	// MaxStoreBytes. Zero or less: no limit.
	MaxEntries, MaxBytes int64

	// Blocklist is the one that the relay's policy has in it. Nil: nothing can be
	// blocked.
	Blocklist *policy.Blocklist

	// InviteKey is policy.InviteConfig.Key. Nil: no invites can be made.
	InviteKey []byte

	// BackupFile is where a copy of the store is made before it is handed out; then it is
	// removed. There must be room for it. Empty: no backups can be made.
	BackupFile string

	// Ready returns an error that says why the relay can't work, if it can't:
	// relay.Server.Health is one. Nil: only the store is asked.
	Ready func(context.Context) error

	// Activity tells of the relay's recent work: relay.Server.Activity returns one.
	// Nil: that isn't known, and not shown.
	Activity Activity

	// Logger is told of failures and of all that is changed. Default: slog.Default().
	Logger *slog.Logger
}

// Activity tells of the recent work of a relay. It is safe for concurrent use.
type Activity interface {
	// Report returns the counts as they are at this moment.
	Report() *activity.Report

	// LastAsked returns when a server has last asked for its mail; if known is false, it
	// hasn't since that time.
	LastAsked(server spec.ServerName) (at time.Time, known bool)
}

// A Desk is an Operator beside a store. Make one with New.
type Desk struct {
	config  Config
	managed store.Managed
	started time.Time
	senders recent
	backups turns.Turn
}

var _ Operator = (*Desk)(nil)

// New makes a Desk.
func New(config Config) (*Desk, error) {
	managed, ok := config.Store.(store.Managed)
	if !ok {
		return nil, errors.New("admin: the store isn't a store.Managed, so an operator can do nothing with it")
	}
	defaults.Set(&config.Logger, slog.Default())
	return &Desk{
		config: config, managed: managed, started: time.Now().UTC().Truncate(time.Second),
		senders: recent{turn: turns.New()}, backups: turns.New(),
	}, nil
}

// Status implements Operator.
func (d *Desk) Status(ctx context.Context) (*Status, error) {
	status := &Status{
		ServerName: d.config.ServerName, Version: d.config.Version, Problems: []string{},
		Now: time.Now().UTC().Truncate(time.Second), Started: d.started,
		MaxEntries: max(d.config.MaxEntries, 0), MaxBytes: max(d.config.MaxBytes, 0),
		Blocks: d.config.Blocklist != nil, Invites: len(d.config.InviteKey) > 0, Backups: d.makesBackups(),
	}
	looking, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	unread := d.look(looking, status)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if d.config.Activity != nil {
		status.Activity = d.config.Activity.Report()
	}
	failure := store.FailureOf(d.config.Store)
	status.MustRestart = failure != nil
	status.Problems = append(status.Problems, d.problems(ctx, status, failure, unread)...)
	return status, nil
}

// lookTime bounds how long Status reads from the store. One that hangs, or can't be read, is a
// problem that it tells of.
const lookTime = 3 * time.Second

// look reads from the store.
func (d *Desk) look(ctx context.Context, status *Status) error {
	for half, into := range map[spec.ServerName]*Held{"": &status.Servers, store.PrivateHalf: &status.Private} {
		held, err := d.held(ctx, half)
		if err != nil {
			return err
		}
		*into = held
	}
	if measured, ok := d.config.Store.(store.Measured); ok {
		sizes, err := measured.Sizes(ctx)
		if err != nil {
			return fmt.Errorf("admin: the sizes of the store's files: %w", err)
		}
		if files := (Files{Database: sizes.File, Log: sizes.Log}); files != (Files{}) {
			status.Files = &files
		}
		status.Copies = &sizes.Copies
	}
	var err error
	status.LastBackup, err = LastBackup(ctx, d.config.Store)
	return err
}

// problems says in words why the relay isn't well. Failure is that of the store, unread why not
// all could be read from it.
func (d *Desk) problems(ctx context.Context, status *Status, failure, unread error) (all []string) {
	var unready error
	if d.config.Ready != nil {
		unready = d.config.Ready(ctx)
	}
	if failure != nil {
		all = append(all, "The store takes no more mail until the relay is started again: "+failure.Error())
	}
	if unread != nil && failure == nil {
		all = append(all, "The store can't be read: "+unread.Error())
	}
	if unready != nil && (failure == nil || !errors.Is(unready, store.ErrReopen)) { // else it says the same
		all = append(all, "The relay isn't ready: "+unready.Error())
	}
	if n := status.Servers.SetAside + status.Private.SetAside; n > 0 {
		all = append(all, fmt.Sprintf("Entries that can't be read, and were set aside: %d.", n))
	}
	return all
}

func (d *Desk) held(ctx context.Context, name spec.ServerName) (Held, error) {
	usage, err := d.config.Store.Usage(ctx, name)
	if err != nil {
		return Held{}, fmt.Errorf("admin: the usage of a mailbox: %w", err)
	}
	return Held(usage), nil
}

// maxBodies bounds the bytes of a page of entries with their bodies.
const maxBodies = 4 << 20

// Entries implements Operator.
func (d *Desk) Entries(ctx context.Context, q EntryQuery) ([]Entry, error) {
	if err := checkMailbox(q.Mailbox); err != nil {
		return nil, err
	}
	if q.Bodies {
		return d.entriesWithBodies(ctx, q)
	}
	listed, err := d.managed.List(ctx, q.Mailbox, q.After, pageOf(q.Limit))
	if err != nil {
		return nil, fmt.Errorf("admin: the entries of a mailbox: %w", err)
	}
	page := []Entry{}
	for _, l := range listed {
		page = append(page, entryOf(&l))
	}
	return page, nil
}

func (d *Desk) entriesWithBodies(ctx context.Context, q EntryQuery) ([]Entry, error) {
	entries, err := d.config.Store.Next(ctx, q.Mailbox, q.After, pageOf(q.Limit), maxBodies)
	if err != nil && !errors.Is(err, store.ErrEmpty) {
		return nil, fmt.Errorf("admin: the mail in a mailbox: %w", err)
	}
	page := []Entry{}
	for _, e := range entries {
		entry := entryOf(&store.Listed{
			ID: e.ID, Origin: e.Origin, TransactionID: e.TransactionID, Digest: e.Digest,
			Size: e.Size(), Proven: len(e.Proof) > 0, Lifetime: e.Lifetime,
		})
		entry.Body, entry.Proof = e.Body, e.Proof
		page = append(page, entry)
	}
	return page, nil
}

func entryOf(l *store.Listed) Entry {
	entry := Entry{
		ID: l.ID, Origin: l.Origin, TransactionID: l.TransactionID,
		Digest: base64.RawURLEncoding.EncodeToString(l.Digest[:]), Bytes: l.Size, Proven: l.Proven,
		ExpiresMS: l.Lifetime.Milliseconds(),
	}
	if !utf8.ValidString(string(l.TransactionID)) {
		entry.RawID = []byte(l.TransactionID)
	}
	return entry
}

// pageOf is how many items are returned where that many are wanted.
func pageOf(limit int) int {
	if limit < 1 {
		return DefaultPage
	}
	return min(limit, MaxPage)
}

// Senders implements Operator.
func (d *Desk) Senders(ctx context.Context, mailbox spec.ServerName, limit int) ([]Sender, error) {
	list := func() ([]store.Sender, error) { return d.managed.Senders(ctx, mailbox, MaxPage) }
	var senders []store.Sender
	var err error
	if mailbox == "" {
		senders, err = d.senders.get(ctx, list)
	} else {
		senders, err = list()
	}
	if err != nil {
		return nil, fmt.Errorf("admin: the senders: %w", err)
	}
	page := []Sender{}
	for _, s := range senders[:min(len(senders), pageOf(limit))] {
		page = append(page, Sender(s))
	}
	return page, nil
}

// recent is the last list of all senders. A large store takes seconds to make one, so it
// is made by one call at a time, and lasts for ten times as long as that took.
type recent struct {
	turn    turns.Turn // of the call that reads or makes it
	senders []store.Sender
	until   time.Time
}

const recentTimes = 10

func (r *recent) get(ctx context.Context, list func() ([]store.Sender, error)) ([]store.Sender, error) {
	if err := r.turn.Take(ctx); err != nil {
		return nil, err
	}
	defer r.turn.Give()
	begin := time.Now()
	if begin.Before(r.until) {
		return r.senders, nil
	}
	senders, err := list()
	if err != nil {
		return nil, err
	}
	r.senders, r.until = senders, time.Now().Add(recentTimes*time.Since(begin))
	return senders, nil
}

// forget has the next call make a new list.
func (r *recent) forget(ctx context.Context) {
	if r.turn.Take(ctx) != nil {
		return // the list is a little old then
	}
	r.until = time.Time{}
	r.turn.Give()
}

// Blocked implements Operator.
func (d *Desk) Blocked(_ context.Context, after string, limit int) ([]policy.Block, error) {
	if d.config.Blocklist == nil {
		return nil, errNoBlocks
	}
	return d.config.Blocklist.Blocked(after, pageOf(limit)), nil
}

var (
	errNoBlocks  = &wire.Error{Status: http.StatusNotFound, Code: spec.ErrorUnrecognized, Message: "this relay has no list of blocks"}
	errNoInvites = &wire.Error{Status: http.StatusNotFound, Code: spec.ErrorUnrecognized, Message: "this relay has no key for invites"}
)

// Block implements Operator.
func (d *Desk) Block(ctx context.Context, block policy.Block) (*policy.Block, error) {
	if d.config.Blocklist == nil {
		return nil, errNoBlocks
	}
	kept, err := d.config.Blocklist.Block(ctx, block)
	if err != nil {
		return nil, blockError(err)
	}
	d.config.Logger.Info("admin: blocked", "entity", kept.Entity, "reason", kept.Reason)
	return &kept, nil
}

// Unblock implements Operator.
func (d *Desk) Unblock(ctx context.Context, entity string) (bool, error) {
	if d.config.Blocklist == nil {
		return false, errNoBlocks
	}
	found, err := d.config.Blocklist.Unblock(ctx, entity)
	if err != nil {
		return false, blockError(err)
	}
	if found {
		d.config.Logger.Info("admin: unblocked", "entity", entity)
	}
	return found, nil
}

// blockError tells mistakes of the caller from failures.
func blockError(err error) error {
	if errors.Is(err, policy.ErrBlock) || errors.Is(err, policy.ErrManyBlocks) {
		return wire.BadRequest(spec.ErrorInvalidParam, err.Error())
	}
	return fmt.Errorf("admin: %w", err)
}

// Invite implements Operator.
func (d *Desk) Invite(_ context.Context, uses int, until time.Time) (string, error) {
	if len(d.config.InviteKey) == 0 {
		return "", errNoInvites
	}
	text, err := policy.NewInviteText(d.config.InviteKey, cmp.Or(uses, 1), until)
	if err != nil {
		return "", wire.BadRequest(spec.ErrorInvalidParam, err.Error())
	}
	return text, nil
}

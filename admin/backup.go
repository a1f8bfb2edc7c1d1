package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// A Copy is a backup that is read. Size is how many bytes it has: fewer mean that it was
// cut off. Began is from before the moment that it is of, by the relay's clock.
type Copy struct {
	io.ReadCloser
	Size  int64
	Began time.Time
}

// lastBackup is the note of when the last backup began.
const lastBackup = "relay/backup"

var errNoBackups = &wire.Error{Status: http.StatusNotFound, Code: spec.ErrorUnrecognized, Message: "this relay makes no backups: its store has tools of its own for that, or mail is being moved into it"}

// makesBackups reports whether Backup works.
func (d *Desk) makesBackups() bool {
	_, ok := d.config.Store.(store.Backups)
	return ok && d.config.BackupFile != ""
}

// Backup implements Operator. Others wait until the Copy is closed.
func (d *Desk) Backup(ctx context.Context) (copied *Copy, err error) {
	if !d.makesBackups() {
		return nil, errNoBackups
	}
	if err := d.backups.Take(ctx); err != nil {
		return nil, err
	}
	file := &backupFile{path: d.config.BackupFile, done: d.backups.Give}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("admin: %w", err), file.Close())
		}
	}()
	if err := file.remove(); err != nil { // left by a crash
		return nil, err
	}
	began := time.Now().UTC().Truncate(time.Second)
	if err := d.config.Store.(store.Backups).Backup(ctx, file.path); err != nil {
		return nil, err
	}
	if file.File, err = os.Open(file.path); err != nil {
		return nil, err
	}
	_ = file.remove() // where an open file can't be removed, Close does it
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	d.config.Logger.Info("admin: a backup is made, and handed out", "bytes", info.Size())
	return &Copy{ReadCloser: file, Size: info.Size(), Began: began}, nil
}

// A backupFile is there until it is closed.
type backupFile struct {
	*os.File // nil until it is made
	path     string
	done     func()
	once     sync.Once
}

// Close may be called twice.
func (f *backupFile) Close() (err error) {
	f.once.Do(func() {
		defer f.done()
		if f.File != nil {
			err = f.File.Close()
		}
		err = errors.Join(err, f.remove())
	})
	return err
}

func (f *backupFile) remove() error {
	if err := os.Remove(f.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// BackedUp implements Operator.
func (d *Desk) BackedUp(ctx context.Context, began time.Time) error {
	notes, ok := d.config.Store.(store.Notes)
	if !ok {
		return errNoBackups
	}
	if began.IsZero() || began.After(time.Now()) {
		return wire.BadRequest(spec.ErrorInvalidParam, "no backup can have begun then")
	}
	value, err := began.UTC().MarshalText()
	if err != nil {
		return wire.BadRequest(spec.ErrorInvalidParam, err.Error())
	}
	if err := notes.SetNotes(ctx, []store.Note{{Key: lastBackup, Value: value}}); err != nil {
		return fmt.Errorf("admin: noting the backup: %w", err)
	}
	return nil
}

// LastBackup returns when the last backup of a store began, of those that an Operator made;
// it is zero if there is none.
func LastBackup(ctx context.Context, s store.Store) (began time.Time, err error) {
	notes, ok := s.(store.Notes)
	if !ok {
		return began, nil
	}
	value, err := notebook.Read(ctx, notes, lastBackup)
	if err == nil && value != nil {
		err = began.UnmarshalText(value)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("admin: the last backup: %w", err)
	}
	return began, nil
}

const (
	beganHeader = "Relay-Backup-Began"

	// A backup is sent in such chunks, and each must have gone within that time.
	backupChunk = 128 << 10
	backupStall = time.Minute
)

// sendBackup answers with a copy. Its time isn't bounded: neither that of making it, nor
// that of sending it as long as it moves.
func (d *Desk) sendBackup(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	// A server that hasn't got these has no limits either. Only once the body was read does it
	// notice that the client has gone.
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(nil, r.Body, maxRequest))
	_ = errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{}))
	copied, err := d.Backup(r.Context())
	if err != nil {
		d.errorOf(r, err).Write(w)
		return
	}
	h := w.Header()
	wire.NoStore(h)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(copied.Size, 10))
	h.Set(beganHeader, copied.Began.Format(time.RFC3339))
	for err == nil {
		_ = control.SetWriteDeadline(time.Now().Add(backupStall))
		_, err = io.CopyN(w, copied, backupChunk)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, copied.Close()); err != nil { // the client sees that it is too short
		d.config.Logger.Warn("admin: a backup was cut off", "error", err)
	}
}

// Backup implements Operator.
func (c *Client) Backup(ctx context.Context) (*Copy, error) {
	response, err := c.request(ctx, pathBackup, nil, struct{}{})
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_, err := readAnswer[json.RawMessage](response)
		return nil, err
	}
	began, err := time.Parse(time.RFC3339, response.Header.Get(beganHeader))
	if err == nil && response.ContentLength < 0 {
		err = errors.New("it has no length")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("admin: the answer: %w", err), response.Body.Close())
	}
	return &Copy{ReadCloser: response.Body, Size: response.ContentLength, Began: began}, nil
}

// BackedUp implements Operator.
func (c *Client) BackedUp(ctx context.Context, began time.Time) error {
	_, err := call[backedUp](ctx, c, pathBackedUp, nil, backedUp{began})
	return err
}

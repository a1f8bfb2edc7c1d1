package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// checkpointBytes is about how much is written between two checkpoints.
const checkpointBytes = 16 << 20

// maxLogFrames is how long the log may be before readers of this process are held
// up, so that it can start anew.
func (w *writer) maxLogFrames() int64 { return 4 * w.options.checkpointBytes / pageSize }

// A logState is the state of the log, as far as the writer knows it.
type logState struct {
	written int64 // since the last checkpoint, about, in bytes
	behind  int64 // about how many bytes of the log aren't in the database
	warned  time.Time
}

func (l *logState) add(written int64) {
	l.written += written
	l.behind += written
}

// checkpoint brings the log into the database file. The content of the log is
// durable already, so only the next batch waits for this. It waits for no reader
// of another process: if one of them keeps a part from being brought, that part is
// tried again when some more was written.
func (w *writer) checkpoint() {
	if w.trust.Failure() != nil || w.log.behind == 0 {
		return
	}
	if err := w.files.check(); err != nil {
		w.trust.Lose(err)
		return
	}
	done, err := w.runCheckpoint("PASSIVE")
	if err == nil && done.frames > w.maxLogFrames() {
		done, err = w.startAnew()
	}
	if err != nil {
		w.check(err)
		w.options.Logger.Warn("sqlite: checkpoint failed", "error", err)
		w.log.written = min(w.log.written, w.options.checkpointBytes/2)
		return
	}
	w.log.written, w.log.behind = 0, done.behind()
	if done.frames > w.maxLogFrames() {
		w.log.written = w.options.checkpointBytes / 2
		w.warnOfLog(done)
	}
	if err := w.files.lock.reserve(); err != nil {
		w.options.Logger.Warn("sqlite: keeping room for a full disk failed", "error", err)
	}
}

// A checkpointed says how far a checkpoint got.
type checkpointed struct {
	busy          bool // somebody else keeps it from being done
	frames, moved int64
}

func (c checkpointed) behind() int64 { return max(c.frames-c.moved, 0) * pageSize }

func (w *writer) runCheckpoint(mode string) (c checkpointed, err error) {
	row := w.conn.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint("+mode+")")
	err = row.Scan(&c.busy, &c.frames, &c.moved)
	return c, err
}

// startAnew cuts the log if no other process reads it. Reads of this process,
// which are short, are waited for.
func (w *writer) startAnew() (done checkpointed, err error) {
	if w.pauseReads != nil {
		defer w.pauseReads()()
	}
	if err := w.exec("PRAGMA busy_timeout = 0"); err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, w.exec("PRAGMA busy_timeout = "+busyTimeout)) }()
	return w.runCheckpoint("TRUNCATE")
}

// warnOfLog says at most once a minute that the log grows.
func (w *writer) warnOfLog(c checkpointed) {
	if !w.log.warned.IsZero() && time.Since(w.log.warned) < time.Minute {
		return
	}
	w.log.warned = time.Now()
	w.options.Logger.Warn("sqlite: the log can't shrink since another program, or a backup, reads the database",
		"bytes", logHeader+c.frames*frameSize)
}

// rewriteLog writes the log's own bytes over it and syncs that, before SQLite
// reads it. After a failed fsync the kernel may believe that bytes are written
// which the disk doesn't have; if the process then ends, the next one would read
// them from memory and build on them. The bytes don't change, so that readers in
// other processes, which would be in the way of a checkpoint, don't mind.
func rewriteLog(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buffer := make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := f.ReadAt(buffer, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read the log: %w", err)
		}
		if n == 0 {
			break
		}
		if _, err := f.WriteAt(buffer[:n], at); err != nil {
			return fmt.Errorf("write the log anew: %w", err)
		}
		at += int64(n)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync the log: %w", err)
	}
	return nil
}

package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/sleep"
	"github.com/matrixrelay/relay/store/internal/wake"
)

const (
	// nameBytes is the length of a name for a destination or a Store in a
	// notification, nameLength that of its hexadecimal form. The names of a
	// whole batch fit into one notification, which may have 8000 bytes.
	nameBytes  = 8
	nameLength = 2 * nameBytes

	// firstPause and longestPause are between attempts to connect.
	firstPause   = 50 * time.Millisecond
	longestPause = 10 * time.Second

	// connectTime bounds connecting, and how long a notification may take that
	// shows that they arrive.
	connectTime = 5 * time.Second

	// silence is after how long without a notification the connection is
	// checked.
	silence = 30 * time.Second

	// While notifications don't arrive, all waiting calls are woken every
	// recheckInterval, and listening is tried again after deafTime.
	recheckInterval = 5 * time.Second
	deafTime        = time.Minute
)

// wakeName stands for a destination, with any bytes in it. Two that have
// the same are woken for nothing now and then.
func wakeName(destination spec.ServerName) spec.ServerName {
	sum := sha256.Sum256([]byte(destination))
	return spec.ServerName(hex.EncodeToString(sum[:nameBytes]))
}

// queueAnnouncements tells other processes which mailboxes have new mail.
func (b *batch) queueAnnouncements(q *pgx.Batch) {
	if len(b.woken) == 0 {
		return
	}
	said := strings.Builder{}
	said.WriteString(b.id)
	for _, destination := range slices.Sorted(maps.Keys(b.woken)) {
		said.WriteString(string(wakeName(destination)))
	}
	q.Queue(announceSQL, b.schema.channel(), said.String())
}

// A listener wakes the calls that wait in this process when another process
// announces mail.
type listener struct {
	pool    *pgxpool.Pool
	config  *pgx.ConnConfig // nil: connect as the pool does
	channel string
	id      string // of this process: its own announcements are known by it
	log     *slog.Logger
	waiting *wake.Hub

	tried chan struct{} // closed when it listens, or has failed to
	once  sync.Once
}

func newListener(s *Store, id string) (*listener, error) {
	l := &listener{
		pool: s.pool, channel: s.schema().channel(), id: id,
		log: s.options.Logger, waiting: &s.waiting, tried: make(chan struct{}),
	}
	if s.options.ListenString == "" {
		return l, nil
	}
	var err error
	l.config, err = pgx.ParseConfig(s.options.ListenString)
	return l, err
}

// errDeaf says that the connection is no session, so that notifications for it
// get lost.
var errDeaf = errors.New("notifications don't arrive: is there a pooler in between?")

// loop listens until ctx ends.
func (l *listener) loop(ctx context.Context) {
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, longestPause) {
		heard, err := l.listen(ctx)
		l.once.Do(func() { close(l.tried) })
		if ctx.Err() != nil {
			return
		}
		if heard {
			pause = firstPause
		}
		l.log.Warn("postgres: not listening for mail that other processes take in", "error", err)
		if errors.Is(err, errDeaf) {
			l.recheck(ctx)
			continue
		}
		_ = sleep.For(ctx, pause) // the loop ends with ctx
	}
}

// await waits until it listens, but not for long: the first to wait for mail
// then needn't be woken because it begins.
func (l *listener) await(ctx context.Context) {
	select {
	case <-l.tried:
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}

// recheck wakes all waiting calls now and then.
func (l *listener) recheck(ctx context.Context) {
	for end := time.Now().Add(deafTime); time.Now().Before(end) && sleep.For(ctx, recheckInterval) == nil; {
		l.waiting.NotifyAll()
	}
}

// listen connects and hears until the connection is lost.
func (l *listener) listen(ctx context.Context) (heard bool, err error) {
	conn, err := l.connect(ctx)
	if err != nil {
		return false, err
	}
	defer l.hangUp(conn)
	if err := l.test(ctx, conn); err != nil {
		return false, err
	}
	l.waiting.NotifyAll() // there may have been mail before
	l.once.Do(func() { close(l.tried) })
	for {
		if err := l.hear(ctx, conn); err != nil {
			return true, err
		}
	}
}

func (l *listener) connect(ctx context.Context) (conn *pgx.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	if l.config != nil {
		conn, err = pgx.ConnectConfig(ctx, l.config)
	} else {
		var pooled *pgxpool.Conn
		if pooled, err = l.pool.Acquire(ctx); err == nil {
			conn = pooled.Hijack()
		}
	}
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{l.channel}.Sanitize()); err != nil {
		l.hangUp(conn)
		return nil, err
	}
	return conn, nil
}

// hangUp closes a connection that was only read from. Nobody waits for it long.
func (l *listener) hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// test sends a notification on another way than the connection that listens,
// and waits for it.
func (l *listener) test(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	said := "test " + newID()
	if _, err := l.pool.Exec(ctx, `SELECT pg_catalog.pg_notify($1, $2)`, l.channel, said); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return errDeaf
		}
		if err != nil {
			return err
		}
		if n.Payload == said {
			return nil
		}
	}
}

// hear waits for one notification, or checks the connection if none comes.
func (l *listener) hear(ctx context.Context, conn *pgx.Conn) error {
	waiting, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	n, err := conn.WaitForNotification(waiting)
	switch {
	case err == nil:
		l.wake(n.Payload)
		return nil
	case waiting.Err() == nil || ctx.Err() != nil:
		return err
	}
	checking, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	if err := conn.Ping(checking); err != nil {
		return fmt.Errorf("the connection is silent: %w", err)
	}
	return nil
}

// wake wakes those for whom another process has announced mail.
func (l *listener) wake(said string) {
	if len(said)%nameLength != 0 || strings.HasPrefix(said, l.id) {
		return
	}
	for at := nameLength; at < len(said); at += nameLength {
		l.waiting.Notify(spec.ServerName(said[at : at+nameLength]))
	}
}

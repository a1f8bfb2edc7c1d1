package admin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
)

// A copying store makes copies, which take a while.
type copying struct {
	*memory.Store
	content []byte
	takes   time.Duration
	fails   error
}

func (c *copying) Backup(ctx context.Context, path string) error {
	select {
	case <-time.After(c.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.fails != nil {
		return c.fails
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(c.content)
	return errors.Join(err, file.Close())
}

func newCopying(t *testing.T, content []byte) (*copying, *admin.Desk, string) {
	t.Helper()
	s := &copying{Store: memory.New(memory.Options{}), content: content}
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	path := filepath.Join(t.TempDir(), "relay.db-backup")
	desk, err := admin.New(admin.Config{Store: s, BackupFile: path, Logger: quiet})
	require.NoError(t, err)
	return s, desk, path
}

// A backup is handed out whole, beside the Desk and through it, and leaves nothing.
func TestBackup(t *testing.T) {
	content := bytes.Repeat([]byte("a page of a database"), 200_000)
	s, desk, path := newCopying(t, content)
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := admin.ListenUnix(socket)
	require.NoError(t, err)
	serve(t, listener, desk.Handler())
	status, err := desk.Status(t.Context())
	require.NoError(t, err)
	require.True(t, status.Backups)
	require.Zero(t, status.LastBackup)
	for _, o := range []admin.Operator{desk, newClient(t, "unix:"+socket, "")} {
		require.NoError(t, os.WriteFile(path, []byte("left by a crash"), 0o600))
		began := time.Now().Truncate(time.Second)
		copied, err := o.Backup(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, len(content), copied.Size)
		require.False(t, copied.Began.Before(began))
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = o.Backup(canceled)
		require.ErrorIs(t, err, context.Canceled, "one at a time")
		read, err := io.ReadAll(copied)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, read))
		require.NoError(t, copied.Close())
		require.NoError(t, o.BackedUp(t.Context(), copied.Began))
		status, err := o.Status(t.Context())
		require.NoError(t, err)
		require.True(t, copied.Began.Equal(status.LastBackup))
		requireStatus(t, http.StatusBadRequest, o.BackedUp(t.Context(), time.Now().Add(time.Hour)))
		requireStatus(t, http.StatusBadRequest, o.BackedUp(t.Context(), time.Time{}))

		s.fails = store.ErrFull
		_, err = o.Backup(t.Context())
		require.ErrorContains(t, err, "full")
		s.fails = nil
	}
	copied, err := desk.Backup(t.Context()) // the failures gave the place back
	require.NoError(t, err)
	require.NoError(t, copied.Close())
	require.NoError(t, copied.Close())
	require.NoFileExists(t, path)
}

// Stores that make no copies say so.
func TestNoBackups(t *testing.T) {
	each(t, func(r *rig, o admin.Operator) {
		_, err := o.Backup(r.Context())
		requireStatus(r.T, http.StatusNotFound, err)
		status, err := o.Status(r.Context())
		require.NoError(r, err)
		require.False(r, status.Backups)
	})
}

// A copy that was cut off on the way isn't taken for a whole one.
func TestBackupIsCutOff(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Relay-Backup-Began", "2026-01-02T03:04:05Z")
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, strings.Repeat("x", 999))
	}))
	defer server.Close()
	copied, err := newClient(t, server.URL, "").Backup(t.Context())
	require.NoError(t, err)
	_, err = io.ReadAll(copied)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoError(t, copied.Close())
}

// A backup may take longer than other answers, for whose time the server has limits. Only a
// client that doesn't read at all is given up.
func TestBackupTakesLong(t *testing.T) {
	content := bytes.Repeat([]byte("a page of a database"), 200_000)
	for _, http2 := range []bool{false, true} {
		for _, reads := range []int{len(content), 1 << 20} {
			t.Run(fmt.Sprint("http2=", http2, ",reads=", reads), func(t *testing.T) {
				s, _, path := newCopying(t, content)
				s.takes = time.Hour
				synctest.Test(t, func(t *testing.T) {
					desk, err := admin.New(admin.Config{Store: s, BackupFile: path, Logger: quiet})
					require.NoError(t, err)
					testSlowBackup(t, desk, http2, content, reads)
				})
			})
		}
	}
}

func testSlowBackup(t *testing.T, desk *admin.Desk, http2 bool, content []byte, reads int) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	here, there := net.Pipe()
	listener := &oneConn{conn: there, closed: make(chan struct{})}
	server := &http.Server{Handler: desk.Handler(), ReadTimeout: time.Second, WriteTimeout: time.Second, Protocols: protocols}
	ended := make(chan struct{})
	go func() {
		_ = server.Serve(listener) // it ends by Close
		close(ended)
	}()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return here, nil }, Protocols: protocols,
	}}
	defer func() {
		client.CloseIdleConnections()
		require.NoError(t, server.Close())
		<-ended
	}()
	response, err := client.Post("http://relay/v1/backup", "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }() // it may be cut off
	require.Equal(t, http.StatusOK, response.StatusCode)
	read := 0
	for piece := make([]byte, 64<<10); err == nil && read < reads; {
		time.Sleep(10 * time.Second) // slow, but it moves
		var n int
		n, err = io.ReadFull(response.Body, piece)
		read += n
	}
	if reads == len(content) {
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "the end of the last piece")
		require.Equal(t, len(content), read)
		return
	}
	require.NoError(t, err)
	copied, err := desk.Backup(t.Context()) // this waits for the end of the one before
	require.NoError(t, err)
	require.NoError(t, copied.Close())
}

// A told store tells how the making of a copy ended.
type told struct {
	*copying
	ended chan error
}

func (s told) Backup(ctx context.Context, path string) error {
	err := s.copying.Backup(ctx, path)
	s.ended <- err
	return err
}

// The copy of a client that has gone isn't made to its end: the next one would wait for that.
func TestBackupOfClientThatGoes(t *testing.T) {
	copying, _, path := newCopying(t, []byte("copy"))
	copying.takes = 5 * time.Second
	s := told{copying, make(chan error, 1)}
	desk, err := admin.New(admin.Config{Store: s, BackupFile: path, Logger: quiet})
	require.NoError(t, err)
	server := httptest.NewServer(desk.Handler())
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = newClient(t, server.URL, "").Backup(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, <-s.ended, context.Canceled)
}

// A oneConn is a listener that has one connection.
type oneConn struct {
	conn   net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

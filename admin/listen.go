package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// MinToken is the least that a token has, in bytes.
const MinToken = 16

// RequireToken serves requests that have the header "Authorization: Bearer TOKEN", or the
// token as the password of any user, for which browsers ask, and refuses others with
// 401. How long that takes doesn't tell how much of a token was right. A token has at
// least MinToken bytes; it is a secret, so serve it over TLS, or on the loopback address.
func RequireToken(token string, next http.Handler) (http.Handler, error) {
	if len(token) < MinToken {
		return nil, fmt.Errorf("admin: the token has less than %d bytes", MinToken)
	}
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(tokenOf(r)))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="relay", charset="UTF-8"`)
			(&wire.Error{Status: http.StatusUnauthorized, Code: spec.ErrorUnknownToken, Message: "the operator's token is missing or wrong"}).Write(w)
			return
		}
		next.ServeHTTP(w, r)
	}), nil
}

// tokenOf returns the token of a request; it is empty if there is none.
func tokenOf(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	if kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(kind, "Bearer") {
		return token
	}
	return ""
}

// ErrInUse says that another program listens on a Unix socket.
var ErrInUse = errors.New("admin: another program listens on this socket")

// ListenUnix listens on a Unix socket that only the user of this process may open, at no
// moment anybody else. It replaces the file of a program that has ended, and no other
// kind of file. Closing the listener removes the file.
func ListenUnix(path string) (net.Listener, error) {
	l, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("admin: listen on %s: %w", path, err)
	}
	return l, nil
}

func listenUnix(path string) (_ net.Listener, err error) {
	if err := checkFree(path); err != nil {
		return nil, err
	}
	// Others can't look into this folder while the file in it has no mode yet.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".relay-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	made := filepath.Join(dir, "s")
	inner, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	inner.SetUnlinkOnClose(false) // it will have another name
	info, err := secure(made)
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	return &unixListener{Listener: inner, path: path, file: info}, nil
}

// secure gives the file to its owner alone.
func secure(path string) (fs.FileInfo, error) {
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// checkFree returns an error if something is there that must not be replaced.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that isn't a socket")
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(ErrInUse, conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil // nobody listens
	}
	return err // a program that has no time now, or that isn't ours to ask
}

// A unixListener removes its file when it's closed, if that is still its own.
type unixListener struct {
	net.Listener
	path string
	file fs.FileInfo

	once sync.Once
	err  error
}

// Addr implements net.Listener. The listener within knows the name that the file had first.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close implements net.Listener.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
			l.err = os.Remove(l.path)
		}
		l.err = errors.Join(l.err, l.Listener.Close())
	})
	return l.err
}

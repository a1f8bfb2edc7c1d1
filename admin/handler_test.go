package admin_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/admin"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

func TestWrongRequests(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	r.put("a.example", "b.example", 1, 0)
	handler := r.desk.Handler()
	for _, one := range []struct {
		method, target, body string
		status               int
	}{
		{"GET", "/other", "", 404},
		{"GET", "/v1/other", "", 404},
		{"GET", "/v1/mailboxes?limit=x", "", 400},
		{"GET", "/v1/mailboxes?limit=-1", "", 400},
		{"GET", "/v1/mailboxes?private=perhaps", "", 400},
		{"GET", "/v1/entries?mailbox=b.example&after=9007199254740992", "", 400},
		{"GET", "/v1/entries?mailbox=b.example&bodies=1", "", 400},
		{"GET", "/v1/mailbox?name=" + strings.Repeat("a", 513), "", 400},
		{"GET", "/v1/senders?limit=1e3", "", 400},
		{"GET", "/v1/blocked?limit=x", "", 400},
		{"POST", "/v1/purge", "", 400},
		{"POST", "/v1/purge", "{}", 400},
		{"POST", "/v1/purge", `{"mailbox":"b.example","origins":"c.example"}`, 400},
		{"POST", "/v1/purge", `{"mailbox":"` + strings.Repeat("b", 65<<10) + `"}`, 400},
		{"POST", "/v1/invite", `{"uses":1,"until":"tomorrow"}`, 400},
	} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), one.method, one.target, strings.NewReader(one.body)))
		require.Equal(t, one.status, answer.Code, "%s %s", one.method, one.target)
		parsed := wire.ParseError(answer.Code, answer.Header(), answer.Body.Bytes())
		require.NotEmpty(t, parsed.Code, "%s %s", one.method, one.target)
	}
	require.Len(t, r.left(r.client, "b.example"), 1, "no purge for a misspelt request")
}

// A GET changes nothing.
func TestMethods(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	for _, path := range []string{"purge", "verify", "block", "unblock", "invite"} {
		answer := httptest.NewRecorder()
		r.desk.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "GET", "/v1/"+path, nil))
		require.Contains(t, []int{404, 405}, answer.Code)
	}
}

func TestMountedOnPrefix(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	server := httptest.NewServer(http.StripPrefix("/operator", r.desk.Handler()))
	t.Cleanup(server.Close)
	status, err := newClient(t, server.URL+"/operator/", "").Status(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, "relay.example", status.ServerName)
}

func TestToken(t *testing.T) {
	r := newRig(t, memory.New(memory.Options{}))
	const token = "0123456789abcdef"
	guarded, err := admin.RequireToken(token, r.desk.Handler())
	require.NoError(t, err)
	server := httptest.NewServer(guarded)
	t.Cleanup(server.Close)
	_, err = newClient(t, server.URL, token).Status(t.Context())
	require.NoError(t, err)
	for _, wrong := range []string{"", token[1:], token + "0", strings.ToUpper(token), " " + token} {
		_, err = newClient(t, server.URL, wrong).Status(t.Context())
		requireStatus(t, 401, err)
	}
	request, err := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
	require.NoError(t, err)
	for password, status := range map[string]int{token: 200, "": 401, token + "0": 401} {
		request.SetBasicAuth("anybody", password)
		answer, err := server.Client().Do(request)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, status, answer.StatusCode, "as a browser sends it")
		require.Equal(t, status == 401, strings.HasPrefix(answer.Header.Get("WWW-Authenticate"), "Basic "))
	}
	_, err = admin.RequireToken(token[1:], r.desk.Handler())
	require.ErrorContains(t, err, "less than 16 bytes")
}

// A redirect doesn't get the token.
func TestClientFollowsNowhere(t *testing.T) {
	asked := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	t.Cleanup(other.Close)
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	_, err := newClient(t, server.URL, "0123456789abcdef").Status(t.Context())
	require.Error(t, err)
	require.False(t, asked)
}

// Another program at the address may answer anything.
func TestClientOfAnotherProgram(t *testing.T) {
	for _, text := range []string{"null", " null\n", "", "[", "<html>", `"x"`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
		client := newClient(t, server.URL, "")
		_, err := client.Status(t.Context())
		require.Error(t, err, "%q", text)
		_, err = admin.PurgeAll(t.Context(), client, admin.Purge{Origin: "a"}, nil)
		require.Error(t, err, "%q", text)
		_, err = admin.VerifyAll(t.Context(), client, nil)
		require.Error(t, err, "%q", text)
		_, err = client.Block(t.Context(), policy.Block{Entity: "a"})
		require.Error(t, err, "%q", text)
		server.Close()
	}
}

func TestClientAddresses(t *testing.T) {
	for _, wrong := range []string{"", "relay.sock", "ftp://relay.example", "http://", "http://relay.example?x=1", "://"} {
		_, err := admin.NewClient(wrong, "")
		require.Error(t, err, wrong)
	}
}

func TestListenUnix(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	first, err := admin.ListenUnix(path)
	require.NoError(t, err)
	require.Equal(t, path, first.Addr().String())
	info, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, os.ModeSocket|0o600, info.Mode())
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1)
	_, err = admin.ListenUnix(path)
	require.ErrorIs(t, err, admin.ErrInUse)
	require.NoError(t, first.Close())
	require.NoError(t, first.Close())
	require.NoFileExists(t, path)

	// The file of a program that was killed.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	stale.SetUnlinkOnClose(false)
	require.NoError(t, stale.Close())
	second, err := admin.ListenUnix(path)
	require.NoError(t, err)

	// The file of another program, which came after it.
	require.NoError(t, os.Remove(path))
	third, err := admin.ListenUnix(path)
	require.NoError(t, err)
	require.NoError(t, second.Close())
	require.FileExists(t, path)
	require.NoError(t, third.Close())

	require.NoError(t, os.WriteFile(path, []byte("of somebody"), 0o600))
	_, err = admin.ListenUnix(path)
	require.ErrorContains(t, err, "isn't a socket")
	require.FileExists(t, path)
	_, err = admin.ListenUnix(filepath.Join(dir, "none", "s"))
	require.Error(t, err)
}

package jetstream

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/seal"
)

// A message of which the disk has changed a byte hides no other.
func TestBadDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := startServer(t, func(o *server.Options) { o.StoreDir = dir })
	s := open(t, testOptions(srv))
	for _, id := range []string{"first", "second", "third"} {
		_, err := s.Put(t.Context(), testMail(id), store.Limits{})
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
	srv.Shutdown()
	srv.WaitForShutdown()
	changeByte(t, dir, testMail("second").Body)

	srv = startServer(t, func(o *server.Options) { o.StoreDir = dir })
	s = open(t, testOptions(srv))
	entries, err := s.Next(t.Context(), "b.example", 0, 10, 1<<20)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.Equal(t, []string{"the body of first", "the body of third"}, []string{string(entries[0].Body), string(entries[1].Body)})
	usage, err := s.Usage(t.Context(), "b.example")
	require.NoError(t, err)
	require.EqualValues(t, 1, usage.SetAside)
	require.NoError(t, s.Close())
}

// The beginning of a batch, which is all that was kept of it, isn't taken for the
// mail: that would be in no mailbox.
func TestBatchInPart(t *testing.T) {
	t.Parallel()
	s := openTest(t, nil)
	put(t, s, testMail("first"))
	entries := next(t, s, "b.example")
	mail := testMail("second")
	messages, err := messagesOf(&mail, entries[0].ID+1, 0, nonce{1}, s.engine.maxMessage())
	require.NoError(t, err)
	_, err = s.engine.publish([]outgoing{{subject: s.cache.subjects.mail(seal.KeyOf(&mail)), data: messages[0], checked: true}}, false)
	require.NoError(t, err)
	put(t, s, mail)
	stored, err := s.Put(t.Context(), mail, store.Limits{Entries: 1})
	require.NoError(t, err)
	require.False(t, stored)
	require.Len(t, next(t, s, "b.example"), 2)
}

func testMail(id string) store.Mail {
	return store.Mail{
		Destination: "b.example", Origin: "a.example", TransactionID: gomatrixserverlib.TransactionID(id),
		Body: []byte("the body of " + id), Proof: []byte("its proof"),
	}
}

// changeByte changes bytes that were written to the disk.
func changeByte(t *testing.T, dir string, written []byte) {
	t.Helper()
	changed := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(data, written)
		if at < 0 {
			return nil
		}
		changed++
		data[at]++
		return os.WriteFile(path, data, 0o600)
	})
	require.NoError(t, err)
	require.Equal(t, 1, changed, "how many files have it")
}

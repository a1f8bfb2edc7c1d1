package sqlite

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay/store"
)

func TestSmoke(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?%.db")
	s, err := Open(path, Options{})
	require.NoError(t, err)
	ctx := context.Background()
	m := store.Mail{Destination: "b", Origin: "a", TransactionID: "1", Body: []byte("{}"), Proof: nil, Expires: time.Now().Add(time.Hour).Truncate(time.Millisecond)}
	ok, err := s.Put(ctx, m, store.Limits{Entries: 1})
	require.NoError(t, err)
	require.True(t, ok)
	ok, err = s.Put(ctx, m, store.Limits{Entries: 1})
	require.NoError(t, err)
	require.False(t, ok)
	m.TransactionID = "2"
	_, err = s.Put(ctx, m, store.Limits{Entries: 1})
	require.ErrorIs(t, err, store.ErrFull)
	es, err := s.Next(ctx, "b", 0, 10, 1000)
	require.NoError(t, err)
	t.Log(es)
	n, err := s.Ack(ctx, "b", es[0].ID)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = s.Next(ctx, "b", 0, 10, 1000)
	require.ErrorIs(t, err, store.ErrEmpty)
	_, err = Open(path, Options{})
	t.Log(err)
	require.Error(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	s, err = Open(path, Options{})
	require.NoError(t, err)
	ok, err = s.Put(ctx, store.Mail{Destination: "b", Origin: "a", TransactionID: "1"}, store.Limits{Entries: 1})
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, s.Close())
}

func BenchmarkPut64(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "x.db"), Options{})
	require.NoError(b, err)
	defer s.Close()
	body := make([]byte, 8000)
	ids := make(chan int)
	go func() { for i := 0; ; i++ { ids <- i } }()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := <-ids
			m := store.Mail{Destination: "b", Origin: "a", Body: body}
			m.Digest[0], m.Digest[1], m.Digest[2], m.Digest[3] = byte(i), byte(i>>8), byte(i>>16), byte(i>>24)
			if _, err := s.Put(context.Background(), m, store.Limits{}); err != nil {
				b.Error(err)
			}
		}
	})
}

package main

import (
	"context"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/table"
)

type (
	keyID   = gomatrixserverlib.PublicKeyLookupRequest
	foundAt = gomatrixserverlib.PublicKeyLookupResult
)

const (
	maxCachedKeys = 10_000
	maxKeyAge     = 24 * time.Hour // even if its server says more
)

// A keyCache is a gomatrixserverlib.KeyDatabase in memory. It holds a bounded
// number of keys and drops the least used when it is full: they can be fetched again.
type keyCache struct {
	mu   sync.Mutex
	keys *table.Table[keyID, foundAt]
}

func newKeyCache() *keyCache { return &keyCache{keys: table.New[keyID, foundAt](maxCachedKeys)} }

// FetcherName implements gomatrixserverlib.KeyFetcher.
func (*keyCache) FetcherName() string { return "cache" }

// FetchKeys implements gomatrixserverlib.KeyFetcher.
func (c *keyCache) FetchKeys(_ context.Context, wanted map[keyID]spec.Timestamp) (map[keyID]foundAt, error) {
	found := make(map[keyID]foundAt, len(wanted))
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range wanted {
		if key, ok := c.keys.Get(id); ok {
			found[id] = key
		}
	}
	return found, nil
}

// StoreKeys implements gomatrixserverlib.KeyDatabase.
func (c *keyCache) StoreKeys(_ context.Context, keys map[keyID]foundAt) error {
	latest := spec.AsTimestamp(time.Now().Add(maxKeyAge))
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, key := range keys {
		key.ValidUntilTS = min(key.ValidUntilTS, latest)
		c.keys.Set(id, key)
	}
	return nil
}

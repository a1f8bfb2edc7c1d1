package relay

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// makeInfo makes the answer that describes this relay. It is the same for everyone as
// long as the Server lives.
func makeInfo(c *Config, records *records, receipts *receipts) ([]byte, error) {
	info := wire.RelayInfo{
		Extensions:   wire.Extensions,
		MaxBodyBytes: c.MaxBodyBytes, MaxBatch: c.MaxBatch, MaxBatchBytes: c.MaxBatchBytes,
		MaxWaitMS: max(c.MaxWait, 0).Milliseconds(), LifetimeMS: max(c.Lifetime, 0).Milliseconds(),
	}
	if c.MaxWait < 0 || c.MaxWaiting < 0 { // it holds no answer
		info.Extensions = slices.DeleteFunc(slices.Clone(info.Extensions), func(e string) bool { return e == wire.Waiting })
		info.MaxWaitMS = 0
	}
	if info.MaxBodyBytes == atMost(-1) {
		info.MaxBodyBytes = 0
	}
	if records.areKept() {
		info.Extensions = append(slices.Clone(info.Extensions), wire.RecordsExtension)
	}
	if receipts.areTaken() {
		info.Extensions = append(slices.Clone(info.Extensions), wire.ReceiptsExtension)
	}
	if _, ok := c.Store.(store.Managed); ok {
		info.Extensions = append(slices.Clone(info.Extensions), wire.ListsExtension)
	}
	if info.MaxBatch == math.MaxInt32 {
		info.MaxBatch = 0
	}
	if described, ok := c.Policy.(policy.Described); ok {
		described.Describe(&info)
	}
	body, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("relay: info: %w", err)
	}
	return body, nil
}

// cacheInfo lets anyone keep the answer for a while: it holds nothing of anybody.
func cacheInfo(h http.Header) {
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(wire.InfoAge.Seconds())))
}

package client

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

const (
	// infoLasts is how long a relay's answer holds before it is asked again,
	// infoFailedLasts how long that there was none.
	infoLasts       = 24 * time.Hour
	infoFailedLasts = time.Hour

	// A relay is asked before a transaction of that size is left there, which may be
	// larger than it takes. Smaller ones cost less than the question.
	infoFrom = 1 << 20
)

// Info asks a relay for its abilities, its limits and its mode. A relay that doesn't know
// the question answers with an error, usually a *wire.Error of 404.
func (c *Caller) Info(ctx context.Context, relay spec.ServerName) (wire.RelayInfo, error) {
	info, err := c.info(ctx, relay)
	if err == nil {
		c.infos.set(relay, info, infoLasts)
	}
	return info, err
}

func (c *Caller) info(ctx context.Context, relay spec.ServerName) (wire.RelayInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	if !c.isWhole() {
		return wire.RelayInfo{}, fmt.Errorf("client: info of %s: %w", relay, errNeedsTransport)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "matrix://"+string(relay)+wire.InfoURI, nil)
	if err != nil {
		return wire.RelayInfo{}, fmt.Errorf("client: info of %s: %w", relay, err)
	}
	body, err := c.roundTrip(request, wire.MaxInfoBytes)
	if err != nil {
		return wire.RelayInfo{}, fmt.Errorf("client: info of %s: %w", relay, err)
	}
	info, err := wire.ReadInfo(body)
	if err != nil {
		return wire.RelayInfo{}, fmt.Errorf("client: info of %s: %w", relay, err)
	}
	return info, nil
}

// fits returns an error if a relay says that it doesn't take a transaction of that size.
// It is the relay's own, without the upload. Since it ends the transaction, it isn't
// taken from memory: the relay may have another limit by now.
func (c *Caller) fits(ctx context.Context, relay spec.ServerName, size int64) error {
	if size < infoFrom {
		return nil
	}
	info, known := c.infos.get(relay)
	isTooLarge := func() bool { return info.MaxBodyBytes > 0 && size > info.MaxBodyBytes }
	if !known || isTooLarge() {
		var err error
		if info, err = c.Info(ctx, relay); err != nil {
			if ctx.Err() == nil {
				c.infos.set(relay, wire.RelayInfo{}, infoFailedLasts)
			}
			return nil // it says nothing
		}
	}
	if !isTooLarge() {
		return nil
	}
	return &wire.Error{
		Status: http.StatusRequestEntityTooLarge, Code: wire.ErrorTooLarge,
		Message: fmt.Sprintf("the relay takes at most %d bytes", info.MaxBodyBytes),
	}
}

// batch is how many transactions to ask a relay for that is known to give no more than
// it has said.
func (c *Caller) batch(relay spec.ServerName, limit int) int {
	if info, known := c.infos.get(relay); known && info.MaxBatch > 0 {
		return min(limit, info.MaxBatch)
	}
	return limit
}

// infos remember relays' answers.
type infos struct {
	mu     sync.Mutex
	relays map[spec.ServerName]knownInfo
}

type knownInfo struct {
	wire.RelayInfo
	until time.Time
}

func newInfos() *infos { return &infos{relays: make(map[spec.ServerName]knownInfo)} }

func (i *infos) set(relay spec.ServerName, info wire.RelayInfo, lasts time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	makeRoom(i.relays, maxContacts)
	i.relays[relay] = knownInfo{info, time.Now().Add(lasts)}
}

// get returns a relay's answer, empty if it gave none, and whether that is still known.
func (i *infos) get(relay spec.ServerName) (info wire.RelayInfo, known bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	have, ok := i.relays[relay]
	return have.RelayInfo, ok && time.Now().Before(have.until)
}

package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// RelayRecord asks a relay for the record of a server. Its signature isn't checked: see
// wire.RelayRecord.Check. A *wire.Error of 404 says that the relay has none, with
// M_NOT_FOUND, or that it knows no records.
func (c *Caller) RelayRecord(ctx context.Context, relay, server spec.ServerName) (wire.RelayRecord, error) {
	answer, err := c.recordCall(ctx, http.MethodGet, relay, server, nil)
	if err != nil {
		return wire.RelayRecord{}, err
	}
	record, err := wire.ReadRelayRecord(answer)
	if err != nil {
		return wire.RelayRecord{}, fmt.Errorf("client: record of %s at %s: %w", server, relay, err)
	}
	if record.Server != server {
		return wire.RelayRecord{}, fmt.Errorf("client: record of %s at %s: it is that of %s", server, relay, record.Server)
	}
	return record, nil
}

// PutRelayRecord brings a relay the record of a server, which may be another one. It
// returns nil once the relay has it. A *wire.Error of 409 says that it has a newer one: see
// RelayRecord.
func (c *Caller) PutRelayRecord(ctx context.Context, relay spec.ServerName, record wire.RelayRecord) error {
	answer, err := c.recordCall(ctx, http.MethodPut, relay, record.Server, json.RawMessage(record.JSON()))
	return isAnswer(answer, err)
}

func (c *Caller) recordCall(ctx context.Context, method string, relay, server spec.ServerName, content any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, min(c.config.Timeout, DefaultRelayTimeout)) // it is small
	defer cancel()
	return c.callAbout(ctx, server, relay, method, wire.RelaysURI(server), content, wire.MaxRecordBytes)
}

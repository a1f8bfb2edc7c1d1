package client

import (
	"net/netip"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// hostOf is the host of a server, in one spelling: ports and a dot at the end cost nothing.
func hostOf(server spec.ServerName) string {
	host, _, ok := spec.ParseAndValidateServerName(server)
	if !ok {
		host = string(server)
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if address, err := netip.ParseAddr(host); err == nil {
		return address.Unmap().String()
	}
	return host
}

// hostAt is the host of an address in a record.
func hostAt(address string) string {
	return hostOf(spec.ServerName(strings.TrimPrefix(address, "https://")))
}

// addressesIn are those that a record gives for a relay.
func addressesIn(record *wire.RelayRecord, relay spec.ServerName) []string {
	for _, named := range record.Relays {
		if named.Name == relay {
			return named.At
		}
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// everyone in place of a list of servers.
const everyone = "all"

// A serverList is a pflag.Value.
type serverList map[spec.ServerName]struct{}

// String implements pflag.Value.
func (l serverList) String() string { return strings.Join(l.values(), ",") }

// values implements several.
func (l serverList) values() []string {
	names := make([]string, 0, len(l))
	for _, name := range slices.Sorted(maps.Keys(l)) {
		names = append(names, string(name))
	}
	return names
}

// Set implements pflag.Value. Several lists add up; an empty one adds nothing.
func (l *serverList) Set(s string) error {
	if *l == nil {
		*l = make(serverList)
	}
	if s == "" {
		return nil
	}
	for name := range strings.SplitSeq(s, ",") {
		name := spec.ServerName(strings.TrimSpace(name))
		if err := wire.CheckName(name); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		(*l)[name] = struct{}{}
	}
	return nil
}

// Type implements pflag.Value.
func (serverList) Type() string { return "list" }

// destinations are a pflag.Value: a list of servers, or all.
type destinations struct {
	all  bool
	list serverList
}

func (d *destinations) has(server spec.ServerName) bool {
	_, ok := d.list[server]
	return d.all || ok
}

// String implements pflag.Value.
func (d *destinations) String() string { return strings.Join(d.values(), ",") }

// values implements several.
func (d *destinations) values() []string {
	if d.all {
		return []string{everyone}
	}
	return d.list.values()
}

// Set implements pflag.Value.
func (d *destinations) Set(s string) error {
	if s == everyone {
		d.all = true
		return nil
	}
	return d.list.Set(s)
}

// Type implements pflag.Value.
func (*destinations) Type() string { return "list" }

// A relayTable is a pflag.Value: the relays of servers.
type relayTable map[spec.ServerName][]spec.ServerName

// String implements pflag.Value.
func (t relayTable) String() string { return strings.Join(t.values(), " ") }

// values implements several.
func (t relayTable) values() (texts []string) {
	for _, server := range slices.Sorted(maps.Keys(t)) {
		for _, relay := range slices.Sorted(slices.Values(t[server])) {
			texts = append(texts, string(server+"="+relay))
		}
	}
	return texts
}

// Set implements pflag.Value. Several add up.
func (t *relayTable) Set(s string) error {
	server, list, err := cutServer(s)
	if err != nil {
		return err
	}
	var relays serverList
	if err := relays.Set(list); err != nil {
		return err
	}
	if _, ok := relays[server]; ok || len(relays) == 0 {
		return fmt.Errorf("%s needs relays other than itself", server)
	}
	if *t == nil {
		*t = make(relayTable)
	}
	for relay := range relays {
		if !slices.Contains((*t)[server], relay) {
			(*t)[server] = append((*t)[server], relay)
		}
	}
	return nil
}

// Type implements pflag.Value.
func (relayTable) Type() string { return tableType }

// An addressTable is a pflag.Value: where servers are.
type addressTable map[spec.ServerName]string

// String implements pflag.Value.
func (t addressTable) String() string { return strings.Join(t.values(), " ") }

// values implements several.
func (t addressTable) values() (texts []string) {
	for _, server := range slices.Sorted(maps.Keys(t)) {
		texts = append(texts, string(server)+"="+t[server])
	}
	return texts
}

// Set implements pflag.Value.
func (t *addressTable) Set(s string) error {
	server, address, err := cutServer(s)
	if err != nil {
		return err
	}
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
		return fmt.Errorf("%q is not HOST:PORT", address)
	}
	if *t == nil {
		*t = make(addressTable)
	}
	if _, again := (*t)[server]; again {
		return fmt.Errorf("%s is at two addresses", server)
	}
	(*t)[server] = address
	return nil
}

// Type implements pflag.Value.
func (addressTable) Type() string { return tableType }

// cutServer cuts SERVER=... into two.
func cutServer(s string) (spec.ServerName, string, error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok {
		return "", "", errors.New("there is no = in it")
	}
	if err := wire.CheckName(spec.ServerName(name)); err != nil {
		return "", "", fmt.Errorf("%q: %w", name, err)
	}
	return spec.ServerName(name), rest, nil
}

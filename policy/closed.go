package policy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// MaxList bounds the servers in a list that ReadList reads.
const MaxList = 1_000_000

// Closed is the mode of a relay that keeps mail only for the servers in a list, which
// may be changed at any time. Anybody may leave mail for these servers.
type Closed struct {
	servers atomic.Pointer[map[spec.ServerName]struct{}]
}

var _ Policy = (*Closed)(nil)

// NewClosed makes a Closed for these servers.
func NewClosed(servers ...spec.ServerName) *Closed {
	c := &Closed{}
	c.Set(servers)
	return c
}

// Set changes the list. Mail that is there for others is kept for its lifetime, and
// can be fetched.
func (c *Closed) Set(servers []spec.ServerName) {
	set := make(map[spec.ServerName]struct{}, len(servers))
	for _, s := range servers {
		set[s] = struct{}{}
	}
	c.servers.Store(&set)
}

// Has reports whether mail is kept for a server.
func (c *Closed) Has(server spec.ServerName) bool {
	_, ok := (*c.servers.Load())[server]
	return ok
}

// Acts implements Acting.
func (c *Closed) Acts(_ context.Context, server spec.ServerName) (bool, error) {
	return c.Has(server), nil
}

// Describe implements Described.
func (*Closed) Describe(info *wire.RelayInfo) {
	info.Mode = wire.Closed
}

// Admit implements Policy.
func (c *Closed) Admit(_ context.Context, r *Request) error {
	if r.Stage == Claimed && r.Endpoint == wire.SendRelay && !r.Local && !c.Has(r.Destination) {
		return wire.Forbidden("this relay does not act for " + string(r.Destination))
	}
	r.Member = r.Member || r.Stage == Signed && c.Has(r.Origin)
	return nil
}

// ReadList reads a list of servers from a file: one name in each line. The rest of a
// line after a # is a comment.
func ReadList(path string) (servers []spec.ServerName, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("policy: list of servers: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	servers, err = readList(file)
	if err != nil {
		return nil, fmt.Errorf("policy: list of servers: %s: %w", path, err)
	}
	return servers, nil
}

func readList(in io.Reader) (servers []spec.ServerName, err error) {
	lines := bufio.NewScanner(in)
	for number := 1; lines.Scan(); number++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		name := spec.ServerName(strings.TrimSpace(text))
		if name == "" {
			continue
		}
		if err := wire.CheckName(name); err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", number, name, err)
		}
		if len(servers) == MaxList {
			return nil, fmt.Errorf("there are more than %d servers in it", MaxList)
		}
		servers = append(servers, name)
	}
	return servers, lines.Err()
}

package admin

import (
	"context"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/internal/notebook"
	"github.com/matrixrelay/relay/store"
)

// factPrefixes begin the keys of notes about one server, whose name follows: of package
// policy (the first three) and of relay.Server.
var factPrefixes = []string{"relay/claim/", "relay/member/", "relay/owned/", "relay/record/"}

// Facts implements Operator.
func (d *Desk) Facts(ctx context.Context, server spec.ServerName) ([]Fact, error) {
	if err := checkMailbox(server); err != nil {
		return nil, err
	}
	facts := []Fact{}
	notes, ok := d.config.Store.(store.Notes)
	if !ok {
		return facts, nil
	}
	for _, prefix := range factPrefixes {
		key := prefix + string(server)
		value, err := notebook.Read(ctx, notes, key)
		if err != nil {
			return nil, fmt.Errorf("admin: the notes about a server: %w", err)
		}
		if len(value) > 0 {
			facts = append(facts, Fact{key, value})
		}
	}
	return facts, nil
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/client"
)

const sendHelp = `Leave a transaction at a relay, as a server does when it can't reach the destination.
FILE has its JSON, with pdus and edus; - is the standard input. Without FILE it is a
transaction that servers pass over: an EDU of a type that none knows.

  relay keygen a.pem
  relay send --relay relay --at relay=127.0.0.1:9001 --signing-key a.pem --to SERVERNAME`

// sending has the options of relay send.
type sending struct {
	asNode
	to, id string
}

func newSend() *cobra.Command {
	var s sending
	c := &cobra.Command{
		Use: "send [FILE]", Short: "Leave a transaction at a relay", Long: sendHelp, GroupID: groupNode,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{errors.New("it takes one FILE at most")}
			}
			return nil
		},
		RunE: s.run,
	}
	s.flags(c.Flags())
	c.Flags().StringVar(&s.to, "to", "", "the `SERVERNAME` of the destination (required)")
	c.Flags().StringVar(&s.id, "id", "", "the `ID` of the transaction; a relay takes the same content with the same ID\nonce (default a new one)")
	return c
}

func (s *sending) run(c *cobra.Command, args []string) error {
	if s.to == "" {
		return usageError{errors.New("--to is required")}
	}
	caller, id, hangUp, err := s.caller()
	if err != nil {
		return err
	}
	defer hangUp()
	now := time.Now()
	if s.id == "" {
		s.id = fmt.Sprint(now.UnixNano())
	}
	body, err := transactionBody(c.InOrStdin(), args, id.ServerName, now)
	if err != nil {
		return err
	}
	t := client.Transaction{ID: gomatrixserverlib.TransactionID(s.id), Destination: spec.ServerName(s.to), Body: body}
	if err := failure(caller.Send(c.Context(), spec.ServerName(s.relay), t)); err != nil {
		return err
	}
	return show(c, fmt.Sprintf("%s has transaction %s, %d bytes, for %s", s.relay, s.id, len(body), s.to),
		map[string]any{"relay": s.relay, "destination": s.to, "transaction_id": s.id, "bytes": len(body)})
}

// transactionBody reads the transaction, or makes one.
func transactionBody(stdin io.Reader, args []string, origin spec.ServerName, now time.Time) (body json.RawMessage, err error) {
	switch {
	case len(args) == 0:
		return json.Marshal(map[string]any{
			"origin": origin, "origin_server_ts": now.UnixMilli(), "pdus": []any{},
			"edus": []any{map[string]any{"edu_type": "org.matrixrelay.test", "content": map[string]any{"sent": now.UTC()}}},
		})
	case args[0] == "-":
		body, err = io.ReadAll(stdin)
	default:
		body, err = os.ReadFile(args[0])
	}
	if err != nil {
		return nil, err
	}
	if !json.Valid(body) {
		return nil, fmt.Errorf("there is no JSON in %s", args[0])
	}
	return body, nil
}

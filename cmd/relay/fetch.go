package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/spf13/cobra"

	"github.com/matrixrelay/relay/client"
	"github.com/matrixrelay/relay/wire"
)

const fetchHelp = `Print the mail that a relay has for a server, a line for each transaction. It stays
there, and only the first ones are printed, unless --acknowledge says to fetch all of it:
then the relay removes each transaction after it was printed, and nobody else gets it. It
asks first if --bodies isn't given, since mail that nobody has seen is lost then.

  relay fetch --relay relay --at relay=127.0.0.1:9001 --signing-key b.pem --bodies`

// fetching has the options of relay fetch.
type fetching struct {
	asNode
	acknowledge, bodies bool
	yes                 bool
	limit               int
	wait                time.Duration

	caller *client.Caller
	self   spec.ServerName
}

func newFetch() *cobra.Command {
	var f fetching
	c := &cobra.Command{Use: "fetch", Short: "Print the mail at a relay", Long: fetchHelp, GroupID: groupNode, Args: noArgs, RunE: f.run}
	f.flags(c.Flags())
	c.Flags().BoolVar(&f.acknowledge, "acknowledge", false, "fetch all mail, and have the relay remove it")
	c.Flags().BoolVar(&f.bodies, "bodies", false, "print the transactions, too")
	c.Flags().BoolVar(&f.yes, "yes", false, "don't ask")
	c.Flags().IntVar(&f.limit, "limit", 100, "ask for this `NUMBER` of transactions at once")
	c.Flags().DurationVar(&f.wait, "wait", 0, "if there is none, wait for it for this `DURATION`")
	return c
}

func (f *fetching) run(c *cobra.Command, _ []string) error {
	if f.limit < 1 || f.wait < 0 {
		return usageError{errors.New("--limit must be at least 1, and --wait not negative")}
	}
	caller, id, hangUp, err := f.asNode.caller()
	if err != nil {
		return err
	}
	defer hangUp()
	if f.acknowledge && !f.bodies && !f.yes {
		if err := confirm(c, "Have the relay remove all mail, without its text being printed (see --bodies)?"); err != nil {
			return err
		}
	}
	f.caller, f.self = caller, id.ServerName
	print := printMail(c, f.bodies)
	var last int64
	for {
		answer, err := caller.Ask(c.Context(), spec.ServerName(f.relay), last, wire.Query{Limit: f.limit, Timeout: f.wait})
		if err != nil || !answer.EntriesQueued {
			return failure(err)
		}
		if answer.EntryID <= last {
			return unreachable{fmt.Errorf("%s answers entry %d after %d was acknowledged", f.relay, answer.EntryID, last)}
		}
		for _, one := range append([]wire.Answer{answer}, answer.More...) {
			if err := print(f.mailOf(c, one)); err != nil {
				return err
			}
			last = one.EntryID
		}
		if !f.acknowledge {
			return nil
		}
		f.wait = 0
	}
}

// A fetched is a transaction as it is printed.
type fetched struct {
	EntryID       int64           `json:"entry_id"`
	Origin        spec.ServerName `json:"origin"`
	TransactionID string          `json:"transaction_id,omitempty"` // deployed relays don't say
	Bytes         int             `json:"bytes"`
	Proof         string          `json:"proof"`
	Transaction   json.RawMessage `json:"transaction,omitempty"`
}

func (f *fetching) mailOf(c *cobra.Command, a wire.Answer) fetched {
	var head struct{ Origin spec.ServerName }
	_ = json.Unmarshal(a.Transaction, &head) // the origin of one that can't be read is empty
	return fetched{
		EntryID: a.EntryID, Origin: head.Origin, TransactionID: string(a.TransactionID), Bytes: len(a.Transaction),
		Proof: f.proofOf(c, a, head.Origin), Transaction: a.Transaction,
	}
}

// proofOf says in a word whether the origin has signed a transaction. Only keys that are
// names are at hand.
func (f *fetching) proofOf(c *cobra.Command, a wire.Answer, origin spec.ServerName) string {
	if len(a.Proof) == 0 {
		return "none"
	}
	proof, err := wire.ReadProof(a.Proof)
	if err == nil && !isKeyName(origin) {
		return "unchecked"
	}
	if err == nil {
		_, err = proof.Check(c.Context(), wire.HexKeys{}, a.Transaction, f.self)
	}
	if err != nil {
		return "wrong"
	}
	return "right"
}

// printMail prints transactions: a line each, of JSON with --json.
func printMail(c *cobra.Command, bodies bool) func(fetched) error {
	asJSON, err := c.Flags().GetBool(jsonFlag)
	out := c.OutOrStdout()
	return func(m fetched) error {
		if err != nil {
			return err
		}
		if !bodies {
			m.Transaction = nil
		}
		if asJSON {
			encoder := json.NewEncoder(out)
			encoder.SetEscapeHTML(false)
			return encoder.Encode(m)
		}
		return printLine(out, m)
	}
}

func printLine(out io.Writer, m fetched) error {
	_, err := fmt.Fprintf(out, "%d from %q, ID %q, %d bytes, proof: %s\n", m.EntryID, m.Origin, m.TransactionID, m.Bytes, m.Proof)
	if err == nil && m.Transaction != nil {
		_, err = fmt.Fprintf(out, "%s\n", m.Transaction)
	}
	return err
}

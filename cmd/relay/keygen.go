package main

import (
	"crypto/ed25519"
	"fmt"

	"github.com/spf13/cobra"
)

const keygenHelp = `Make a signing key in a FILE that isn't there yet, in the form of Dendrite's
matrix_key.pem, and print the name that a server with it has in P2P networks.`

func newKeygen() *cobra.Command {
	return &cobra.Command{
		Use: "keygen FILE", Short: "Make a signing key", Long: keygenHelp, GroupID: groupRun, Args: oneArg("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			id, key, err := makeKey(args[0])
			if err != nil {
				return err
			}
			name := keyName(key.Public().(ed25519.PublicKey))
			return show(c, fmt.Sprintf("name    %s\nkey ID  %s", name, id),
				map[string]any{"file": args[0], "server_name": name, "key_id": id})
		},
	}
}

// oneArg asks for one argument.
func oneArg(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("it takes one argument, %s", name)}
		}
		return nil
	}
}

package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
)

// jsonFlag is the flag of all commands with which they print JSON.
const jsonFlag = "json"

// show prints a result: a text for people or, with --json, a value for programs.
func show(c *cobra.Command, text string, value any) error {
	if asJSON, err := c.Flags().GetBool(jsonFlag); err != nil || !asJSON {
		_, writeErr := fmt.Fprintln(c.OutOrStdout(), text)
		return writeErr
	}
	encoder := json.NewEncoder(c.OutOrStdout())
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

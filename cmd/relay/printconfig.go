package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A several is a pflag.Value that may be given again.
type several interface {
	pflag.Value

	// values returns the values that Set has taken, so that setting them again gives the same.
	values() []string
}

var (
	_ several = (*serverList)(nil)
	_ several = (*destinations)(nil)
	_ several = (*relayTable)(nil)
	_ several = (*addressTable)(nil)
	_ several = (*prefixList)(nil)
)

// A setting is an option as it is printed.
type setting struct {
	Name   string `json:"name"`
	Value  any    `json:"value"` // a string, or a list of them
	Source string `json:"source"`
}

// print prints the options of a command as a TOML file, or as JSON. Passwords are left
// out.
func (s settings) print(c *cobra.Command) error {
	var all []setting
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if s.known.Lookup(f.Name) != nil {
			all = append(all, settingOf(f))
		}
	})
	var text strings.Builder
	for _, one := range all {
		line, err := toml.Marshal(map[string]any{one.Name: one.Value})
		if err != nil {
			return fmt.Errorf("%s: %w", one.Name, err)
		}
		fmt.Fprintf(&text, "%-40s # %s\n", strings.TrimSpace(string(line)), one.Source)
	}
	return show(c, strings.TrimSuffix(text.String(), "\n"), all)
}

func settingOf(f *pflag.Flag) setting {
	s := setting{Name: f.Name, Source: "default"}
	if source := f.Annotations[sourceKey]; len(source) > 0 {
		s.Source = source[0]
	}
	if list, ok := f.Value.(several); ok {
		s.Value = append([]string{}, list.values()...) // an empty list, not null
		return s
	}
	text := f.Value.String()
	shown := cmp.Or(shownDB(text), text)
	if shown != text {
		s.Source += ", less the password"
	}
	s.Value = shown
	return s
}

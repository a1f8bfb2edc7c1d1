package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const settingsHelp = `Options may also stand in a TOML file, --config, under their names without the
dashes, and in the environment: RELAY_MAX_BODY is --max-body. The command line
comes before the environment, and that before the file. Where an option may be given
more than once, the file has a list, and the environment has spaces between the values.
The file is for relay serve; other commands take those of their options from it that it
has, too.`

const (
	configFlag = "config"
	envPrefix  = "RELAY_"

	// sourceKey is the annotation of a flag that says where its value comes from.
	sourceKey = "source"

	// tableType is the Type of values that may be given again, and have commas in them.
	tableType = "table"
)

// A settings is the options that may come from elsewhere than the command line: those
// of relay serve.
type settings struct{ known *pflag.FlagSet }

func newSettings() settings {
	known := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	new(options).flags(known)
	return settings{known}
}

// apply gives the options of a command that the command line doesn't have the values
// that they have elsewhere.
func (s settings) apply(c *cobra.Command, _ []string) error {
	var open []*pflag.Flag
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		switch {
		case s.known.Lookup(f.Name) == nil:
		case f.Changed:
			setSource(f, "command line")
		default:
			open = append(open, f)
		}
	})
	if len(open) == 0 {
		return nil
	}
	file, err := s.file(c)
	if err != nil {
		return usageError{err}
	}
	for _, f := range open {
		if err := file.set(f); err != nil {
			return usageError{err}
		}
	}
	return nil
}

// set gives an option its value from the environment, or else from the file.
func (s *settingsFile) set(f *pflag.Flag) error {
	variable := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
	if text, ok := os.LookupEnv(variable); ok {
		values := []string{text}
		if f.Value.Type() == tableType {
			values = strings.Fields(text)
		}
		return setAll(f, variable, "environment", values)
	}
	value, ok := s.values[f.Name]
	if !ok {
		return nil
	}
	texts, err := textsOf(value)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", s.name, f.Name, err)
	}
	if _, several := f.Value.(several); !several && len(texts) != 1 {
		return fmt.Errorf("%s: %s has one value, and no list", s.name, f.Name)
	}
	return setAll(f, s.name+": "+f.Name, s.name, texts)
}

// setAll sets an option to values that come from a source.
func setAll(f *pflag.Flag, place, source string, values []string) error {
	for _, value := range values {
		if err := f.Value.Set(value); err != nil {
			return fmt.Errorf("%s: %q: %w", place, value, err)
		}
	}
	setSource(f, source)
	return nil
}

func setSource(f *pflag.Flag, source string) {
	if f.Annotations == nil {
		f.Annotations = make(map[string][]string)
	}
	f.Annotations[sourceKey] = []string{source}
}

// A settingsFile is the content of the file, which is empty if there is none.
type settingsFile struct {
	name   string
	values map[string]any
}

func (s settings) file(c *cobra.Command) (*settingsFile, error) {
	name, err := c.Flags().GetString(configFlag)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = os.Getenv(envPrefix + "CONFIG")
	}
	file := &settingsFile{name: name}
	if name == "" {
		return file, nil
	}
	if _, err := toml.DecodeFile(name, &file.values); err != nil {
		return nil, fmt.Errorf("--%s: %s: %w", configFlag, name, err)
	}
	for _, key := range slices.Sorted(maps.Keys(file.values)) {
		if s.known.Lookup(key) == nil {
			return nil, fmt.Errorf("--%s: %s: relay serve has no option %q", configFlag, name, key)
		}
	}
	return file, nil
}

// textsOf is the values of a setting as the command line would have them.
func textsOf(value any) ([]string, error) {
	switch value := value.(type) {
	case string:
		return []string{value}, nil
	case int64, float64, bool:
		return []string{fmt.Sprint(value)}, nil
	case []any:
		var texts []string
		for _, one := range value {
			text, ok := one.(string)
			if !ok {
				return nil, errors.New("it is a list of something else than strings")
			}
			texts = append(texts, text)
		}
		return texts, nil
	}
	return nil, errors.New("it is no string, number, true, false or list of strings")
}

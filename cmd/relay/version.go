package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// A build says how this program was built, as far as that is known.
type build struct {
	Version  string `json:"version"` // "(devel)" if it isn't that of a release
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"` // of the revision
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func thisBuild() build {
	b := build{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// String is one line.
func (b build) String() string {
	var revision strings.Builder
	if b.Revision != "" {
		fmt.Fprintf(&revision, ", revision %s of %s", b.Revision, b.Time)
	}
	if b.Modified {
		revision.WriteString(" with changes")
	}
	return fmt.Sprintf("relay %s%s, built with %s for %s", b.Version, &revision, b.Go, b.Platform)
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			b := thisBuild()
			return show(c, b.String(), b)
		},
	}
}

package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/transport/operator"
)

// version is what the program knows of its own build.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	API      int    `json:"schema"` // version of the JSON shapes
}

func buildVersion() version {
	v := version{Version: "unknown", API: operator.Schema}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

// String returns the line that signin-engine version prints.
func (v version) String() string { return fmt.Sprintf("signin-engine %s (%s)", v.Version, v.Go) }

func (c *cli) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Example: `  signin-engine version
  signin-engine version -o json`,
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := buildVersion()
			if c.format == formatJSON {
				return c.printJSON(v)
			}
			return c.printf("%s\n", v)
		},
	}
	c.formatFlag(cmd, formatTable, formatJSON)
	return cmd
}

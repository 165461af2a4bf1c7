package main

import (
	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/machine"
)

func (c *cli) explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "explain CODE",
		Short:   "Say in plain words what a failure code, reason or state means, and what to do",
		Example: `  signin-engine explain resourcematchfailed`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, given []string) error {
			e, ok := machine.Explain(given[0])
			if !ok {
				return notFound("no explanation for %q", given[0])
			}
			if c.format == formatJSON {
				return c.printJSON(explanation(e))
			}
			return c.printf("%s (%s): %s\nWhat to do: %s\n", e.Code, e.Kind, e.Meaning, e.Advice)
		},
	}
	c.formatFlag(cmd, formatTable, formatJSON)
	return cmd
}

// explanation is the JSON form.
type explanation struct {
	Code    string `json:"code"`
	Kind    string `json:"kind"`
	Meaning string `json:"meaning"`
	Advice  string `json:"advice"`
}

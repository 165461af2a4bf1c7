package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/transport/operator"
)

func (c *cli) explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [WORD]",
		Short: "Say what a code, reason, state, stuck rule or row means",
		Long: `Explains the words that this program prints: failure codes of Teams, of the
Token Service, of the connector and of Entra, reasons, methods, states, stuck
rules, rows of the transition table, lines of a timeline, calls, why a request
was refused, HTTP statuses. Without a word it lists them.`,
		Example: `  signin-engine explain resourcematchfailed
  signin-engine explain lease-expired
  signin-engine explain C2`,
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: completeWords,
		RunE: func(_ *cobra.Command, given []string) error {
			if len(given) == 0 {
				return c.listWords()
			}
			all := operator.ExplainAll(given[0])
			if len(all) == 0 {
				if near := operator.Suggest(given[0]); len(near) > 0 {
					return notFound("no explanation for %q: did you mean %s?", given[0], strings.Join(near, " or "))
				}
				return notFound("no explanation for %q: signin-engine explain lists all words", given[0])
			}
			if c.format == formatJSON {
				return c.printJSON(all[0])
			}
			for _, e := range all {
				if err := c.printf("%s", c.wrapped(fmt.Sprintf("%s (%s): %s\nWhat to do: %s\n", e.Code, e.Kind, e.Meaning, e.Advice))); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.formatFlag(cmd, formatTable, formatJSON)
	return cmd
}

func (c *cli) listWords() error {
	all := operator.Explanations()
	if c.format == formatJSON {
		return c.printJSON(all)
	}
	for _, e := range all {
		if err := c.printf("%s\n", c.wrapped(fmt.Sprintf("%s (%s): %s", e.Code, e.Kind, e.Meaning))); err != nil {
			return err
		}
	}
	return nil
}

func completeWords(_ *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
	var found []string
	for _, e := range operator.Explanations() {
		if len(given) == 0 && strings.HasPrefix(strings.ToLower(e.Code), strings.ToLower(begun)) {
			found = append(found, cobra.CompletionWithDesc(e.Code, e.Meaning))
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/transport/operator"
)

// completionTime bounds how long a shell waits for a completion.
const completionTime = 2 * time.Second

// completeKind completes the words of these kinds.
func completeKind(kinds ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(wordsOf(kinds...), cobra.ShellCompDirectiveNoFileComp)
}

// completeAttempts completes the id of an attempt, newest first. The command
// takes only one.
func (c *cli) completeAttempts(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.completeAttempt(cmd, given, strings.ToUpper(begun))
}

func (c *cli) completeAttempt(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
	return c.completeFrom(func(v *operator.View) string {
		return cobra.CompletionWithDesc(v.ID, joined(string(v.State), v.Key.Connection, v.Key.User))
	})(cmd, given, begun)
}

// completeFrom completes from one member of the newest attempts. It offers
// nothing if the store cannot be read in time.
func (c *cli) completeFrom(member func(*operator.View) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		var found []string
		cmd.SetContext(ctx)
		err := c.with(cmd, func(ctx context.Context, s *source) error {
			page, err := s.List(ctx, operator.Query{Limit: operator.MaxLimit})
			for i := range page.Attempts {
				if m := member(&page.Attempts[i]); m != "" && strings.HasPrefix(m, begun) && !slices.Contains(found, m) {
					found = append(found, m)
				}
			}
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// completeConnections completes the connections in the settings; if there are
// none, those of the newest attempts.
func (c *cli) completeConnections(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
	cfg, err := c.settings(cmd)
	if err != nil || len(cfg.Connections) == 0 {
		return c.completeFrom(func(v *operator.View) string { return v.Key.Connection })(cmd, given, begun)
	}
	names := make([]string, len(cfg.Connections))
	for i := range cfg.Connections {
		names[i] = cfg.Connections[i].Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

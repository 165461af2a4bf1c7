package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/transport/operator"
)

// purgeStep is the number of attempts deleted in one transaction. It is small so
// that a running bot never waits long.
const purgeStep = 500

func (c *cli) purgeCommand() *cobra.Command {
	var age string
	var yes, dry bool
	cmd := &cobra.Command{
		Use:     "purge --older-than 720h",
		Short:   "Delete attempts that ended long ago, with their audit lines",
		Example: "  signin-engine purge --older-than 720h --dry-run\n  signin-engine purge --older-than 720h --yes",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			older, wrong := operator.ParseAge(age)
			switch {
			case age == "" || wrong == nil && older == 0:
				return usage("purge: --older-than is needed, an age such as 720h or 30d")
			case wrong != nil:
				return usage("purge: --older-than: %w", wrong)
			case yes && dry:
				return usage("purge: --yes and --dry-run exclude each other")
			case !yes && !dry:
				return fmt.Errorf("%w: purge needs --yes, or --dry-run to count only", errRefused)
			}
			store, release, err := c.purger(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, release()) }()
			if dry {
				n, err := store.Purge(cmd.Context(), older, maxDryRun, true)
				if err != nil {
					return err
				}
				return c.printPurged(n, true)
			}
			total := 0
			for {
				n, err := store.Purge(cmd.Context(), older, purgeStep, false)
				total += n
				if err == nil && n == purgeStep {
					c.progress("purged %s", operator.Count(int64(total), "attempt"))
					continue
				}
				if total > n {
					c.progressDone()
				}
				return errors.Join(c.printPurged(total, false), err)
			}
		},
	}
	cmd.Flags().StringVar(&age, "older-than", "", "ended longer ago than this `age`, such as 720h or 30d")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "count only")
	c.formatFlag(cmd, formatTable, formatJSON)
	return cmd
}

// maxDryRun bounds what a dry run counts.
const maxDryRun = 10_000

func (c *cli) printPurged(n int, dry bool) error {
	switch {
	case c.format == formatJSON:
		return c.printJSON(struct {
			Purged int  `json:"purged"`
			DryRun bool `json:"dry_run"`
		}{n, dry})
	case dry && n >= maxDryRun:
		return c.printf("Would purge at least %d attempts.\n", n)
	case dry:
		return c.printf("Would purge %s.\n", operator.Count(int64(n), "attempt"))
	default:
		return c.printf("Purged %s.\n", operator.Count(int64(n), "attempt"))
	}
}

// progress overwrites one line on a terminal and prints nothing elsewhere.
func (c *cli) progress(format string, a ...any) {
	if terminal(c.stderr) {
		fmt.Fprintf(c.stderr, "\r"+format+" ", a...) //nolint:errcheck // decoration
	}
}

// progressDone ends the line.
func (c *cli) progressDone() {
	if terminal(c.stderr) {
		fmt.Fprintln(c.stderr) //nolint:errcheck // decoration
	}
}

package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/transport/operator"
)

func (c *cli) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the schema of a Postgres store up to date, or show it",
		Long: `Brings the schema of a Postgres store up to date, or shows which steps it has.
serve does it at the start unless auto_migrate is false.`,
		Example: `  signin-engine migrate status --store 'postgres://bot@db/bots?schema=signin'
  signin-engine migrate up --store 'postgres://bot@db/bots?schema=signin'`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(
		c.migrateStep("up", "Take the steps that the schema has not yet; harmless when there are none", pgstore.Migrate),
		c.migrateStep("status", "Show which steps the schema has", pgstore.Status),
	)
	return cmd
}

func (c *cli) migrateStep(use, short string,
	do func(ctx context.Context, dsn string, opts ...pgstore.Option) ([]pgstore.Migration, error),
) *cobra.Command {
	cmd := &cobra.Command{
		Use:     use,
		Short:   short,
		Example: "  signin-engine migrate " + use + " --store 'postgres://bot@db/bots?schema=signin'",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.settings(cmd)
			if err != nil {
				return err
			}
			if cfg.Store.Backend != config.Postgres {
				return usage("store: %s has no schema to migrate: name a Postgres store with --store postgres://…", cfg.Store)
			}
			c.progress("migrate %s", use)
			steps, err := do(cmd.Context(), cfg.Store.Address.Reveal())
			c.progressDone()
			if err != nil {
				return postgresError(err)
			}
			return c.printMigrations(steps)
		},
	}
	c.formatFlag(cmd, formatTable, formatJSON)
	return cmd
}

// migrationView is a step in JSON.
type migrationView struct {
	Version int           `json:"version"`
	Name    string        `json:"name"`
	Applied operator.Time `json:"applied"` // null: not yet
}

func (c *cli) printMigrations(steps []pgstore.Migration) error {
	views := make([]migrationView, len(steps))
	g := &grid{head: []string{"version", "name", "applied"}}
	for i, m := range steps {
		views[i] = migrationView{m.Version, m.Name, operator.Time{Time: m.Applied}}
		g.add(fmt.Sprint(m.Version), m.Name, cmp.Or(c.time(m.Applied), "pending"))
	}
	if c.format == formatJSON {
		return c.printJSON(views)
	}
	return c.printGrid(g)
}

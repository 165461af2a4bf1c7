package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/store/pgstore"
	"github.com/signin-engine/signin-engine/transport/operator"
)

func (c *cli) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Migrate the schema of a Postgres store; partitions and grants",
		Long: `Looks after the schema of a Postgres store: its steps, the partitions of the
audit trail, and the rights of roles. serve migrates at its start unless
auto_migrate is false. It also makes partitions if its role may.`,
		Example: `  signin-engine migrate status --store 'postgres://owner@db/bots?schema=signin'
  signin-engine migrate up --store 'postgres://owner@db/bots?schema=signin'
  signin-engine migrate partitions --ahead 8w --store postgres://owner@db/bots
  signin-engine migrate grants --runtime bot --store postgres:// | psql bots`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(
		c.migrateStep("up", "Apply the steps that the schema lacks; harmless without any", pgstore.Migrate),
		c.migrateStep("status", "Show which steps the schema has", pgstore.Status),
		c.migratePartitions(),
		c.migrateGrants(),
	)
	return cmd
}

// database returns the settings for a command that works with Postgres only.
func (c *cli) database(cmd *cobra.Command) (config.Config, error) {
	cfg, err := c.settings(cmd)
	if err == nil && cfg.Store.Backend != config.Postgres {
		err = usage("store: %s has no schema to migrate: name a Postgres store with --store postgres://…", cfg.Store)
	}
	return cfg, err
}

// maxAhead bounds how far ahead partitions are made.
const maxAhead = 2 * 52 * week

const week = 7 * 24 * time.Hour

func (c *cli) migratePartitions() *cobra.Command {
	var ahead string
	cmd := &cobra.Command{
		Use:   "partitions",
		Short: "Make the audit trail's partitions for the weeks ahead",
		Long: `Makes the missing partitions of the audit trail, for this week and the weeks
ahead. It needs the role that owns the schema. If a week began without a
partition, its lines are moved there.`,
		Example: "  signin-engine migrate partitions --ahead 8w --store postgres://owner@db/bots",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			age, err := operator.ParseAge(ahead)
			switch {
			case err != nil:
				return usage("migrate partitions: --ahead: %w", err)
			case age <= 0 || age > maxAhead:
				return usage("migrate partitions: --ahead %s: between 1w and 104w", ahead)
			}
			cfg, err := c.database(cmd)
			if err != nil {
				return err
			}
			c.progress("migrate partitions")
			until, err := pgstore.Partitions(cmd.Context(), cfg.Store.Address.Reveal(), int((age+week-1)/week), cfg.PostgresOptions()...)
			c.progressDone()
			if err != nil {
				return postgresError(err)
			}
			if c.format == formatJSON {
				return c.printJSON(struct {
					Until operator.Time `json:"until"`
				}{operator.Time{Time: until}})
			}
			return c.printf("The audit trail has partitions until %s.\n", until.Format(time.DateOnly))
		},
	}
	cmd.Flags().StringVar(&ahead, "ahead", "8w", "how far ahead, an `age` such as 8w")
	c.formatFlag(cmd, formatTable, formatJSON)
	return cmd
}

func (c *cli) migrateGrants() *cobra.Command {
	var runtime, reader string
	cmd := &cobra.Command{
		Use:   "grants --runtime ROLE --reader ROLE",
		Short: "Print the GRANTs for the roles of bots and of readers",
		Long: `Prints SQL that the owner of the schema runs. It connects to nothing. The
runtime role is for serve: it changes rows, not tables. The reader role is
enough for inspect, list, watch, export, doctor and plain SQL. It does not see
the store's key.`,
		Example: `  signin-engine migrate grants --runtime bot --store postgres:// | psql bots
  signin-engine migrate grants --reader support --store postgres:// | psql bots`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runtime == "" && reader == "" {
				return usage("migrate grants: name a role with --runtime or --reader")
			}
			cfg, err := c.database(cmd)
			if err != nil {
				return err
			}
			sql, err := pgstore.Grants(cfg.Store.Address.Reveal(), runtime, reader)
			if err != nil {
				return err
			}
			return c.printf("%s", sql)
		},
	}
	cmd.Flags().StringVar(&runtime, "runtime", "", "`role` of bots that serve")
	cmd.Flags().StringVar(&reader, "reader", "", "`role` of readers")
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
			cfg, err := c.database(cmd)
			if err != nil {
				return err
			}
			c.progress("migrate %s", use)
			steps, err := do(cmd.Context(), cfg.Store.Address.Reveal(), cfg.PostgresOptions()...)
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

// migrationView is a schema step in JSON.
type migrationView struct {
	Version int           `json:"version"`
	Name    string        `json:"name"`
	Applied operator.Time `json:"applied"` // null: not yet applied
	// ReadableBy is the last step that a program must know to use the schema
	// after this step.
	ReadableBy int `json:"readable_by"`
}

func (c *cli) printMigrations(steps []pgstore.Migration) error {
	views := make([]migrationView, len(steps))
	g := &grid{head: []string{"version", "name", "applied", "readable by"}}
	for i, m := range steps {
		views[i] = migrationView{m.Version, m.Name, operator.Time{Time: m.Applied}, m.ReadableBy}
		g.add(fmt.Sprint(m.Version), m.Name, cmp.Or(c.time(m.Applied), "pending"), fmt.Sprint(m.ReadableBy))
	}
	if c.format == formatJSON {
		return c.printJSON(views)
	}
	return c.printGrid(g)
}

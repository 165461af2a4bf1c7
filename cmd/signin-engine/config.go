package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/docs"
)

func (c *cli) configCommand() *cobra.Command {
	var changed bool
	cmd := &cobra.Command{
		Use:   "config [KEY]",
		Short: "Show the settings and where each comes from, or check a file",
		Long: `Shows every setting that serve would use, and where it comes from: flag,
environment, file, cloud (preset by the setting cloud) or default. KEY is the
beginning of the keys to show. -o wide adds default, environment name, flag and
meaning. Secrets are never shown.`,
		Example: `  signin-engine config --config bot.yaml --changed
  signin-engine config policy.duplicate_wait -o wide
  signin-engine config check bot.yaml`,
		Args: args(cobra.MaximumNArgs(1)),
	}
	cmd.Flags().BoolVar(&changed, "changed", false, "only what somebody set")
	c.formatFlag(cmd, formatTable, formatWide, formatJSON)
	botFlags(cmd)
	cmd.ValidArgsFunction = func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		all, err := config.Settings(config.Source{})
		if err != nil || len(given) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		keys := make([]string, len(all))
		for i := range all {
			keys[i] = all[i].Key
		}
		return keys, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		all, err := config.Settings(config.Source{File: c.configFile, Environ: c.environ, Flags: cmd.Flags()})
		if err != nil {
			return err
		}
		if len(given) > 0 {
			all = slices.DeleteFunc(all, func(s config.Setting) bool { return !strings.HasPrefix(s.Key, given[0]) })
			if len(all) == 0 {
				return notFound("config: no key begins with %q: signin-engine config lists them", given[0])
			}
		}
		if changed {
			all = slices.DeleteFunc(all, func(s config.Setting) bool { return s.From == config.FromDefault })
		}
		return c.printSettings(cmd.Flags(), all)
	}
	cmd.AddCommand(c.configCheckCommand())
	return cmd
}

func (c *cli) configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say everything that is wrong with a file of settings",
		Long: `Checks the settings as serve does at its start, with flags and environment. It
prints one line per problem, which names the key, and exits with 2. It connects
to nothing; signin-engine doctor does.`,
		Example: `  signin-engine config check bot.yaml`,
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			if len(given) > 0 {
				c.configFile = given[0]
			}
			if _, err := c.checkedSettings(cmd); err != nil {
				return err
			}
			return c.printf("The settings are complete.\n")
		},
	}
}

func (c *cli) printSettings(flags *pflag.FlagSet, all []config.Setting) error {
	if c.format == formatJSON {
		if all == nil {
			all = []config.Setting{}
		}
		return c.printJSON(struct {
			Settings []config.Setting `json:"settings"`
		}{all})
	}
	wide := c.format == formatWide
	g := &grid{head: []string{"key", "value", "from"}, whole: []string{"key"}, spare: []string{"default", "environment"}, prose: wide}
	if wide {
		g.head = append(g.head, "default", "environment", "flag", "meaning")
	}
	for _, s := range all {
		row := []string{s.Key, safe(s.Value), s.From}
		if wide {
			row = append(row, s.Default, s.Env, flagOf(flags, s.Key), meaning(s.Key))
		}
		g.add(row...)
	}
	if len(all) == 0 {
		return c.printf("Every setting has its default.\n")
	}
	return c.printGrid(g)
}

// flagOf returns the flag that sets a key.
func flagOf(flags *pflag.FlagSet, key string) string {
	name := ""
	flags.VisitAll(func(f *pflag.Flag) {
		if k, ok := config.FlagKey(f.Name); ok && k == key {
			name = "--" + f.Name
		}
	})
	return name
}

var index = regexp.MustCompile(`\[\d+\]`)

// meaning returns what docs/configuration.md says of a key.
func meaning(key string) string {
	row := regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(index.ReplaceAllString(key, "[]")) + "` \\|[^|]*\\|([^|]*)\\|")
	found := row.FindStringSubmatch(docs.Configuration)
	if found == nil {
		return ""
	}
	return strings.TrimSpace(found[1])
}

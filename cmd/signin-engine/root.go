package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
)

// cli is what all commands share: the streams and the root's flags.
type cli struct {
	stdout, stderr io.Writer
	environ        []string
	now            func() time.Time
	home           *time.Location // the time zone of times on a terminal

	configFile string
	format     string
	noColor    bool
	showIDs    bool

	place []string // flags that name the store which was read
}

// run is the whole program; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, environ []string) int {
	c := &cli{stdout: stdout, stderr: stderr, environ: environ, now: time.Now, home: time.Local}
	root := c.root() //nolint:contextcheck // commands get ctx when they run
	strict(root)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		report(stderr, err)
	}
	return exitCode(err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "signin-engine",
		Short: "Durable sign-in for Microsoft Teams bots",
		Long: `signin-engine runs the sign-in of a Microsoft Teams bot as a persisted state
machine: one attempt per user and connection, with a full audit trail.

A flag beats a SIGNIN_ENGINE_… variable, which beats the --config file.

Exit codes: 0 done, 1 unexpected, 2 usage, 3 not found, 4 store locked,
unreachable or wrong schema, 5 stuck attempts (inspect --check), 6 lost a race,
7 refused, 8 ambiguous id prefix.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		Args:              noCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Version:           buildVersion().String(),
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetUsageTemplate(strings.NewReplacer(
		".FlagUsages", ".FlagUsagesWrapped "+strconv.Itoa(c.width()),
		"for more information about a command.", "for more about a command.",
	).Replace(root.UsageTemplate()))
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		text, _, _ := strings.Cut(err.Error(), ": strconv.") // how Go parses numbers helps nobody
		return usage("%s", text)
	})

	pf := root.PersistentFlags()
	pf.StringVar(&c.configFile, "config", c.env("CONFIG"), "YAML `file` with the settings")
	pf.String("store", config.Default().Store.String(), "where attempts are kept: bolt:PATH, postgres://… or memory:")
	pf.String("store-file", "", "`file` with what --store would say, read again for each connection")
	pf.String("operator", "", "operator endpoint of a running bot: unix:PATH or http://HOST:PORT")
	pf.String("log-level", config.Default().Log.Level, "trace, debug, info, warn or error")
	pf.String("log-format", config.Default().Log.Format, "auto, console or json")
	pf.BoolVar(&c.noColor, "no-color", false, "no colours (also NO_COLOR)")

	root.AddCommand(
		c.serveCommand(), c.devCommand(),
		c.inspectCommand(), c.listCommand(), c.watchCommand(), c.diagramCommand(), c.explainCommand(),
		c.reconcileCommand(), c.cancelCommand(), c.redeliverCommand(),
		c.exportCommand(), c.purgeCommand(), c.rotateKeyCommand(), c.snapshotCommand(), c.migrateCommand(), c.doctorCommand(), c.configCommand(), c.healthcheckCommand(), c.versionCommand(),
	)
	return root
}

// strict makes the commands that cobra adds refuse arguments which they do not know.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = topic
		case "completion":
			cmd.Args = noCommand
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			for _, shell := range cmd.Commands() {
				shell.Args = args(cobra.NoArgs)
			}
		}
	}
}

// topic refuses help about an unknown command.
func topic(cmd *cobra.Command, given []string) error {
	about, rest, err := cmd.Root().Find(given)
	if err == nil && (about != cmd.Root() || len(rest) == 0) {
		return nil
	}
	return noCommand(cmd.Root(), given)
}

// noCommand refuses an unknown command and suggests a similar one.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if guesses := cmd.SuggestionsFor(args[0]); len(guesses) > 0 {
		return usage("unknown command %q: did you mean %s?", args[0], strings.Join(guesses, " or "))
	}
	return usage("unknown command %q: see %s --help", args[0], cmd.CommandPath())
}

// args wraps an argument check of cobra, so that its error counts as wrong usage and
// says how the command is typed.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if check(cmd, given) == nil {
			return nil
		}
		wrong := "an argument is missing"
		if n := len(given); n > 0 {
			wrong = fmt.Sprintf("unexpected argument %q", given[n-1])
		}
		name := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
		return usage("%s: %s: usage: %s", name, wrong, cmd.UseLine())
	}
}

// env returns the variable SIGNIN_ENGINE_name, "" if it is not set.
func (c *cli) env(name string) string { return c.lookup(config.EnvPrefix + name) }

func (c *cli) lookup(name string) string {
	for _, kv := range c.environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			return v
		}
	}
	return ""
}

// settings loads the configuration without the checks that only a bot needs.
func (c *cli) settings(cmd *cobra.Command) (config.Config, error) {
	return config.Load(config.Source{File: c.configFile, Environ: c.environ, Flags: cmd.Flags()})
}

// checkedSettings loads the configuration with all the checks that serving a bot
// needs.
func (c *cli) checkedSettings(cmd *cobra.Command) (config.Config, error) {
	cfg, err := config.LoadChecked(config.Source{File: c.configFile, Environ: c.environ, Flags: cmd.Flags()})
	if err != nil && c.configFile == "" {
		err = errors.Join(err, usage("no file was read: name one with --config, or try signin-engine dev, which needs none"))
	}
	return cfg, err
}

// terminal reports whether w is a terminal.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (c *cli) color() bool {
	return !c.noColor && c.lookup("NO_COLOR") == "" && terminal(c.stdout)
}

// logger writes to stderr, as text on a terminal and as JSON elsewhere.
func (c *cli) logger(l config.Log) zerolog.Logger {
	level, err := zerolog.ParseLevel(l.Level)
	if err != nil {
		level = zerolog.InfoLevel
	}
	w := c.stderr
	if l.Format == "console" || l.Format == "auto" && terminal(c.stderr) {
		w = zerolog.ConsoleWriter{
			Out: c.stderr, TimeFormat: time.TimeOnly,
			NoColor: c.noColor || c.lookup("NO_COLOR") != "" || !terminal(c.stderr),
		}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

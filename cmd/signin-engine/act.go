package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// action holds the flags of reconcile, cancel, redeliver and rotate-key.
type action struct {
	yes           bool
	reason, actor string
}

func (c *cli) reconcileCommand() *cobra.Command {
	return c.actionCommand("reconcile ID", "Ask the Token Service how an attempt ended, and update it",
		func(ctx context.Context, a operator.Actor, id string, op machine.Operator) error {
			v, err := a.Reconcile(ctx, id, op)
			if err != nil {
				return err
			}
			return c.printResult(v)
		})
}

func (c *cli) cancelCommand() *cobra.Command {
	return c.actionCommand("cancel ID", "End an open attempt as Failed (operator)",
		func(ctx context.Context, a operator.Actor, id string, op machine.Operator) error {
			v, err := a.Cancel(ctx, id, op)
			if err != nil {
				return err
			}
			return c.printResult(v)
		})
}

func (c *cli) redeliverCommand() *cobra.Command {
	return c.actionCommand("redeliver ID", "Retry the pending and failed callbacks of an attempt now",
		func(ctx context.Context, a operator.Actor, id string, op machine.Operator) error {
			n, err := a.Redeliver(ctx, id, op)
			if err != nil {
				return err
			}
			if c.format == formatJSON {
				return c.printJSON(struct {
					Redelivered int `json:"redelivered"`
				}{n})
			}
			return c.printf("Callbacks due now: %d\n", n)
		})
}

func (c *cli) actionCommand(use, short string,
	do func(ctx context.Context, a operator.Actor, id string, op machine.Operator) error,
) *cobra.Command {
	var a action
	cmd := &cobra.Command{
		Use: use, Short: short,
		Long: short + `.

It needs --yes and --reason. The audit trail keeps --reason and --actor.
While a bot runs on a bbolt file, the command asks that bot. Without a running
bot, and on Postgres, it needs the bot's --config.`,
		Example: "  signin-engine " + strings.Replace(use, "ID", "01JSD4K2Q8 --yes --reason 'asked by the user'", 1),
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			if err := a.asked(cmd); err != nil {
				return err
			}
			return c.acting(cmd, func(ctx context.Context, by operator.Actor) error {
				return do(ctx, by, typedID(given[0]), machine.Operator{Actor: a.actor, Reason: a.reason})
			})
		},
	}
	cmd.ValidArgsFunction = c.completeAttempts
	a.flags(c, cmd)
	c.idsFlag(cmd)
	c.formatFlag(cmd, formatTable, formatJSON)
	return cmd
}

func (a *action) flags(c *cli, cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.yes, "yes", false, "do it")
	cmd.Flags().StringVar(&a.reason, "reason", "", "`why`, for the audit trail")
	cmd.Flags().StringVar(&a.actor, "actor", c.osUser(), "`who`, for the audit trail")
}

// asked refuses an action without both --yes and --reason.
func (a *action) asked(cmd *cobra.Command) error {
	if !a.yes || a.reason == "" {
		return fmt.Errorf("%w: %s needs --yes and --reason", errRefused, cmd.Name())
	}
	return nil
}

func (c *cli) osUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return cmp.Or(c.lookup("USER"), "unknown")
}

func (c *cli) printResult(v operator.View) error {
	if c.format == formatJSON {
		return c.printJSON(v)
	}
	v = made(v)
	state := string(v.State)
	if w := why(&v); w != "" {
		state += " (" + w + ")"
	}
	return c.printf("%s: %s, version %d\n", c.attemptID(v.ID), state, v.Version)
}

// acting calls do with whoever performs the action: the running process, or an
// engine of this command's own. Such an engine needs a database, which processes
// share, or a file that no process holds.
func (c *cli) acting(cmd *cobra.Command, do func(context.Context, operator.Actor) error) (err error) {
	ctx := cmd.Context()
	src, err := c.connect(ctx, cmd)
	if err != nil {
		return err
	}
	if src.client != nil {
		defer func() { err = errors.Join(err, src.Close()) }()
		return do(ctx, src.client)
	}
	if err = src.Close(); err != nil {
		return err
	}
	if c.configFile == "" {
		return usage("%s: no running bot answers for %s: name the bot's settings with --config, or its endpoint with --operator", cmd.Name(), src.config.Store)
	}
	if err = src.config.Check(); err != nil {
		return err
	}
	src.config.AutoMigrate = false // an action on one attempt must not change the schema
	s, err := newService(ctx, src.config, src.config.Listen, c.logger(src.config.Log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.bot.Engine().Drain(context.WithoutCancel(ctx)), s.close()) }()
	reader := operator.NewDirect(s.store, operator.DefaultRules(), operator.Info{PID: os.Getpid()})
	return do(ctx, operator.NewDirectActor(reader, s.bot.Engine()))
}

// purger returns the running bot, or a database or the file of a bot that does
// not run.
func (c *cli) purger(cmd *cobra.Command) (operator.Purger, func() error, error) {
	src, err := c.connect(cmd.Context(), cmd)
	if err != nil {
		return nil, nil, err
	}
	if src.client != nil {
		return src.client, src.Close, nil
	}
	if err = src.Close(); err != nil {
		return nil, nil, err
	}
	src.config.AutoMigrate = false
	st, err := openStore(cmd.Context(), src.config)
	if err != nil {
		return nil, nil, err
	}
	return operator.NewDirect(st, operator.DefaultRules(), operator.Info{}), st.Close, nil
}

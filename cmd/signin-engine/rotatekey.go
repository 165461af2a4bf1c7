package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/transport/operator"
)

func (c *cli) rotateKeyCommand() *cobra.Command {
	var a action
	cmd := &cobra.Command{
		Use:   "rotate-key",
		Short: "Give the store a new key for marks and seals",
		Long: `Gives the store a new random key for the HMACs of tokens and codes and for the
seals of kept activities. Every instance reads it with its next sweep, and uses
it from the third one on. What was made with older keys is read until it is past
its retention; then they are forgotten. Nobody has to be restarted.

Needs --yes and --reason; the audit trail keeps them with --actor. A bbolt file
that a running bot holds is reached through its operator endpoint; otherwise,
and on Postgres, the bot's --config is needed. Keys that are kept in
encryption_key_file are rotated there.`,
		Example: "  signin-engine rotate-key --yes --reason 'a copy of the store was lost' --config bot.yaml",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.asked(cmd); err != nil {
				return err
			}
			return c.acting(cmd, func(ctx context.Context, by operator.Actor) error {
				r, err := by.RotateKey(ctx, machine.Operator{Actor: a.actor, Reason: a.reason})
				switch {
				case err != nil:
					return err
				case c.format == formatJSON:
					return c.printJSON(r)
				default:
					return c.printf("Key %s is new and is used from %s. Older keys that are still read: %d\n", r.Key, c.time(r.From.Time), r.Older)
				}
			})
		},
	}
	a.flags(c, cmd)
	c.formatFlag(cmd, formatTable, formatJSON)
	return cmd
}

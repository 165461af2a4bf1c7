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
		Short: "Give the store a new key for HMACs and sealed data",
		Long: `Gives the store a new random key. It makes the HMACs of tokens and codes, and
seals kept activities. Every instance reads the key with its next sweep and uses
it from the third sweep on. Older keys stay readable until the retention of what
they made is over. No instance has to be restarted.

It needs --yes and --reason. The audit trail keeps --reason and --actor.
While a bot runs on a bbolt file, the command asks that bot. Without a running
bot, and on Postgres, it needs the bot's --config. Keys in encryption_key_file
are rotated in that file.`,
		Example: "  signin-engine rotate-key --yes --reason 'a backup was lost' --config bot.yaml",
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

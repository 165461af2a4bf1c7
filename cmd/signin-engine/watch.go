package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/transport/operator"
)

func (c *cli) watchCommand() *cobra.Command {
	var events bool
	var interval time.Duration
	var count int
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show a list that refreshes itself, or tail the audit trail",
		Long: `Shows the list of attempts again and again until it is interrupted; --events
tails the audit trail from now on (--since goes back).`,
		Args: args(cobra.NoArgs),
	}
	f := c.filterFlags(cmd)
	c.idsFlag(cmd)
	cmd.Flags().BoolVar(&events, "events", false, "tail the audit trail")
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "between two looks")
	cmd.Flags().IntVar(&count, "count", 0, "end after this many looks (0: when interrupted)")
	c.formatFlag(cmd, formatTable, formatWide, formatJSONL)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := f.read(c.now())
		if err != nil {
			return err
		}
		if interval < minInterval {
			return usage("watch: --interval is below %s", minInterval)
		}
		return c.with(cmd, func(ctx context.Context, s *source) error {
			look := func(ctx context.Context) error { return c.look(ctx, s, q) }
			if events {
				look = c.tail(s, q.Since)
			}
			return ignoreCanceled(repeat(ctx, interval, count, look))
		})
	}
	return cmd
}

const minInterval = 100 * time.Millisecond

// repeat looks count times, 0 for ever, until ctx is done or a look fails.
func repeat(ctx context.Context, interval time.Duration, count int, look func(context.Context) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 1; ; n++ {
		if err := look(ctx); err != nil || n == count {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// clearScreen homes the cursor and clears; only for terminals.
const clearScreen = "\x1b[H\x1b[2J"

func (c *cli) look(ctx context.Context, s *source, q operator.Query) error {
	const around = 6 // lines: time, head, what follows the table
	if _, height := c.size(); c.format != formatJSONL && q.Limit == 0 && height > around {
		q.Limit = min(height-around, operator.MaxLimit)
	}
	page, err := s.List(ctx, q)
	if err != nil {
		return err
	}
	if c.format != formatJSONL {
		if terminal(c.stdout) {
			err = c.printf("%s", clearScreen)
		}
		if err == nil {
			err = c.printf("%s\n\n", c.time(c.now()))
		}
		if err != nil {
			return err
		}
	}
	return c.printPage(ctx, s, page)
}

// tail prints each audit line once. Lines of one microsecond may arrive in two
// looks, so the last time is asked for again and what was seen is skipped.
func (c *cli) tail(s *source, since time.Time) func(context.Context) error {
	type name struct {
		attempt string
		seq     int64
	}
	seen := map[name]bool{}
	return func(ctx context.Context) error {
		if since.IsZero() {
			info, err := s.Info(ctx)
			if err != nil {
				return err
			}
			since = info.Now.Time
		}
		events, err := s.Events(ctx, operator.EventQuery{Since: since})
		if err != nil {
			return err
		}
		fresh := map[name]bool{}
		for _, e := range events {
			n := name{e.Attempt, e.Seq}
			fresh[n] = true
			if seen[n] {
				continue
			}
			if e.Time.After(since) {
				since = e.Time.Time
			}
			if err = c.printEvent(e); err != nil {
				return err
			}
		}
		seen = fresh
		return nil
	}
}

func (c *cli) printEvent(e operator.EventView) error {
	if c.format == formatJSONL {
		return c.printJSONLine(e)
	}
	status := ""
	if e.Status != 0 {
		status = fmt.Sprint(e.Status)
	}
	attempt := c.attemptID(e.Attempt)
	if attempt == "" {
		attempt = "(orphan)"
	}
	return c.printf("%s  %-26s  %-10s %-4s %s\n", c.clock(e.Time.Time), attempt, e.Kind, e.Row,
		joined(transition(e), e.Invoke, status, e.Detail))
}

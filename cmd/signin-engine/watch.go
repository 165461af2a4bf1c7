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
		Long: `Shows the list of attempts and refreshes it until it is interrupted. --events
follows the audit trail instead, from now on or from --since. If a look takes
long, as on a big store, it looks less often.`,
		Example: `  signin-engine watch --stuck
  signin-engine watch --events
  signin-engine watch --events --since 10m --count 1`,
		Args: args(cobra.NoArgs),
	}
	f := c.filterFlags(cmd)
	c.idsFlag(cmd)
	cmd.Flags().BoolVar(&events, "events", false, "tail the audit trail")
	cmd.Flags().DurationVar(&interval, "interval", 0, "between two looks (default 2s, with --events 200ms)")
	cmd.Flags().IntVar(&count, "count", 0, "end after this many looks (0: when interrupted)")
	c.formatFlag(cmd, formatTable, formatWide, formatJSONL)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := f.read(c.now())
		if err != nil {
			return err
		}
		if interval == 0 {
			interval = 2 * time.Second
			if events {
				interval = 200 * time.Millisecond
			}
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

// calm is how many times as long as a look the pause after it is at least. A look
// at a big store is a scan, and must not slow the bot down.
const calm = 20

// repeat calls look count times (0: without end) until ctx is done or look fails.
func repeat(ctx context.Context, interval time.Duration, count int, look func(context.Context) error) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		begun := time.Now()
		if err := look(ctx); err != nil || n+1 == count {
			return err
		}
		pause.Reset(max(interval, calm*time.Since(begun)))
	}
}

// clearScreen moves the cursor home and clears. It is for terminals only.
const clearScreen = "\x1b[H\x1b[2J"

func (c *cli) look(ctx context.Context, s *source, q operator.Query) error {
	if c.format == formatJSONL && q.Limit == 0 {
		return c.printAll(ctx, s, q)
	}
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

// tail prints each audit line once, beginning at since, or now if since is zero.
// It also prints lines that are written long after the time they record.
func (c *cli) tail(s operator.Reader, since time.Time) func(context.Context) error {
	q := operator.EventQuery{Since: since, Limit: operator.MaxLimit}
	return func(ctx context.Context) error {
		if q.Cursor == "" && q.Since.IsZero() {
			info, err := s.Info(ctx)
			if err != nil {
				return err
			}
			q.Since = info.Now.Time
		}
		for more := true; more; {
			page, err := s.Events(ctx, q)
			if err != nil {
				return err
			}
			for _, e := range page.Events {
				if err := c.printEvent(e); err != nil {
					return err
				}
			}
			q.Cursor, more = page.NextCursor, page.More
		}
		q.Since = time.Time{}
		return nil
	}
}

// anyAttempt has the length of every attempt's id.
const anyAttempt = "00000000000000000000000000"

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
	line := fmt.Sprintf("%s  %-*s  %-10s %-4s %s", c.clock(e.Time.Time), len(c.attemptID(anyAttempt)), attempt, e.Kind, e.Row,
		joined(transition(e), e.Invoke, status, e.Detail))
	return c.printf("%s\n", c.snip(line, c.width()))
}

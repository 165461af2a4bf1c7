package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/machine/diagram"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

func (c *cli) inspectCommand() *cobra.Command {
	var draw, check, trace bool
	cmd := &cobra.Command{
		Use:   "inspect [ID]",
		Short: "Show what is open and stuck, or one attempt with its timeline",
		Long: `Without an id it shows the open states with their oldest attempt, the last hour,
and what is stuck with what to do about it.

With an id it shows one attempt: what happened, what to do, its header and its
timeline. The id is the beginning of the attempt's own, or the whole id of its
exchange, card, message, conversation or user (MRI or Entra object id). If
several attempts have that id, it lists them.

--check prints the stuck list. It exits with 5 if a rule of level error applies.`,
		Example: `  signin-engine inspect
  signin-engine inspect 01JSD4K2Q8
  signin-engine inspect 29:1cgsv1oFLAo
  signin-engine inspect 01JSD4K2Q8 --sequence`,
		Args: args(cobra.MaximumNArgs(1)),
	}
	cmd.ValidArgsFunction = c.completeAttempts
	f := c.filterFlags(cmd)
	c.idsFlag(cmd)
	cmd.Flags().BoolVar(&draw, "diagram", false, "add the state diagram with the attempt's path (Mermaid)")
	cmd.Flags().BoolVar(&trace, "sequence", false, "only the timeline, as a Mermaid sequence diagram")
	cmd.Flags().BoolVar(&check, "check", false, "stuck list only; exit 5 if there is an error")
	c.formatFlag(cmd, formatTable, formatWide, formatJSON)
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		q, err := f.read(c.now())
		if err != nil {
			return err
		}
		filtered := len(q.Values()) > 0
		switch {
		case check && (len(given) > 0 || filtered):
			return usage("inspect: --check takes neither an id nor filters")
		case draw && len(given) == 0:
			return usage("inspect: --diagram needs an id")
		case trace && len(given) == 0:
			return usage("inspect: --sequence needs an id")
		case trace && (draw || c.format == formatJSON):
			return usage("inspect: --sequence prints the diagram alone: leave out --diagram and -o json")
		case filtered && len(given) > 0:
			return usage("inspect: an id and filters exclude each other")
		}
		return c.with(cmd, func(ctx context.Context, s *source) error {
			switch {
			case len(given) > 0:
				return c.inspectAny(ctx, s, given[0], draw, trace)
			case filtered:
				page, err := s.List(ctx, q)
				if err != nil {
					return err
				}
				return c.printPage(ctx, s, page)
			}
			o, err := s.Overview(ctx)
			if err != nil {
				return err
			}
			if check {
				return c.check(o)
			}
			if c.format == formatJSON {
				return c.printJSON(o)
			}
			return c.printOverview(o)
		})
	}
	return cmd
}

// inspectAny shows the attempt with this id, or lists the attempts if several
// have it.
func (c *cli) inspectAny(ctx context.Context, s *source, id string, draw, trace bool) error {
	d, page, err := s.find(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound) && !draw && !trace && c.format != formatJSON:
		return c.inspectWithout(ctx, s, id, err)
	case err != nil:
		return err
	case len(page.Attempts) > 1 && (draw || trace):
		return fmt.Errorf("%w: several attempts have %s: signin-engine inspect lists them", operator.ErrAmbiguous, id)
	case len(page.Attempts) > 1:
		return c.printPage(ctx, s, page)
	case trace:
		return c.printf("%s", sequence(d))
	default:
		return c.inspectOne(d, draw)
	}
}

// inspectWithout says why a user has no attempt, if the reason is known.
func (c *cli) inspectWithout(ctx context.Context, s *source, user string, notFound error) error {
	story, lines, err := operator.StoryWithout(ctx, s, user)
	if err != nil || story.Headline == "" {
		return errors.Join(notFound, err)
	}
	if err = c.printStory(story); err != nil {
		return err
	}
	if err = c.printf("\n"); err != nil {
		return err
	}
	return c.printGrid(c.timeline(operator.Detail{Events: lines}))
}

// find returns the attempt with this id, or a page if several attempts have it.
func (s *source) find(ctx context.Context, typed string) (operator.Detail, operator.Page, error) {
	id := typedID(typed)
	d, err := s.Get(ctx, id)
	if !errors.Is(err, store.ErrNotFound) {
		return d, operator.Page{}, err
	}
	page, err := s.Search(ctx, id)
	switch {
	case err != nil:
		return d, page, err
	case len(page.Attempts) == 0 && id != typed:
		return d, page, usage("%w", shortened(typed))
	case len(page.Attempts) == 0:
		return d, page, fmt.Errorf("attempt %s: %w: no attempt, exchange, card, message, conversation or user has this id: "+
			"signin-engine list shows the newest", id, store.ErrNotFound)
	case len(page.Attempts) > 1:
		return d, page, nil
	}
	d, err = s.Get(ctx, page.Attempts[0].ID)
	return d, operator.Page{}, err
}

func (c *cli) inspectOne(d operator.Detail, draw bool) error {
	if c.format == formatJSON {
		return c.printJSON(d)
	}
	if err := c.printDetail(d); err != nil || !draw {
		return err
	}
	text, err := attemptDiagram(d, diagram.Mermaid)
	if err != nil {
		return err
	}
	return c.printf("\n%s", text)
}

// typedID removes the ellipsis of an id that was copied from a terminal.
func typedID(id string) string { return strings.TrimSuffix(strings.TrimSpace(id), "…") }

// check prints the stuck list and fails if one of its entries is an error.
func (c *cli) check(o operator.Overview) error {
	var err error
	for _, f := range o.Stuck {
		if f.Serious() {
			err = errStuck
		}
	}
	if c.format == formatJSON {
		if e := c.printJSON(o.Stuck); e != nil {
			return e
		}
		return err
	}
	if e := c.printStuck(o.Stuck); e != nil {
		return e
	}
	return err
}

func (c *cli) printOverview(o operator.Overview) error {
	g := &grid{head: []string{"state", "open", "oldest", "since"}}
	for _, s := range o.States {
		oldest := ""
		if s.Count > 0 {
			oldest = age(s.Age.Duration())
		}
		g.add(c.stateColor(s.State), fmt.Sprint(s.Count), oldest, c.time(s.Oldest.Time))
	}
	if err := c.printGrid(g); err != nil {
		return err
	}
	if err := c.printf("\nLast hour: %s; %s\nCallbacks: %s\n\n",
		ended("complete", o.LastHour.Complete), ended("failed", o.LastHour.Failed), callbacks(o)); err != nil {
		return err
	}
	return c.printStuck(o.Stuck)
}

// callbacks counts callbacks, for example "1 pending, 0 dead, 2 undeliverable".
func callbacks(o operator.Overview) string {
	return fmt.Sprintf("%d pending, %d dead, %d undeliverable", o.Owed, o.Dead, o.Undeliverable)
}

// ended counts ended attempts, for example "3 complete (tokenExchange 2,
// verifyState 1)".
func ended(word string, by map[string]int) string {
	total, parts := 0, make([]string, 0, len(by))
	for _, name := range sortedNames(by) {
		total += by[name]
		parts = append(parts, fmt.Sprintf("%s %d", name, by[name]))
	}
	if total == 0 {
		return "0 " + word
	}
	return fmt.Sprintf("%d %s (%s)", total, word, strings.Join(parts, ", "))
}

func (c *cli) printStuck(found []operator.Finding) error {
	if len(found) == 0 {
		return c.printf("Nothing is stuck.\n")
	}
	g := &grid{
		head:  []string{"stuck", "level", "age", "attempt", "state", "user", "connection", "seen"},
		whole: []string{"stuck", "age", "attempt"},
		spare: []string{"level", "state"},
	}
	count := map[string]int{}
	for _, f := range found {
		count[f.Rule]++
		g.add(f.Rule, c.levelColor(f.Level, f.Level), age(f.Age.Duration()), c.attemptID(f.Attempt), string(f.State),
			c.id(f.User), f.Connection, f.Detail)
	}
	if err := c.printGrid(g); err != nil {
		return err
	}
	for _, f := range found {
		n := count[f.Rule]
		if n == 0 {
			continue // printed before
		}
		count[f.Rule] = 0
		prose := fmt.Sprintf("\n%s (%d): %s", c.levelColor(f.Level, f.Rule), n, f.Advice)
		if err := c.printf("%s\n  %s\n", c.wrapped(prose), c.pasteable(f.Command)); err != nil {
			return err
		}
	}
	return nil
}

// pasteable adds to an advised command the flags that lead to the store which
// this command read.
func (c *cli) pasteable(command string) string {
	if command == "" {
		return ""
	}
	return strings.Join(append([]string{command}, c.place...), " ")
}

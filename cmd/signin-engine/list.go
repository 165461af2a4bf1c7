package main

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

func (c *cli) listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List attempts, newest first",
		Example: `  signin-engine list --state CardSent,Exchanging --age-gt 2m
  signin-engine list --user 29:1cgs… --since 24h -o json`,
		Args: args(cobra.NoArgs),
	}
	f := c.filterFlags(cmd)
	c.idsFlag(cmd)
	c.formatFlag(cmd, formatTable, formatWide, formatJSON, formatJSONL, formatCSV)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := f.read(c.now())
		if err != nil {
			return err
		}
		return c.with(cmd, func(ctx context.Context, s *source) error {
			if q.Limit == 0 && (c.format == formatCSV || c.format == formatJSONL) {
				return c.printAll(ctx, s, q)
			}
			page, err := s.List(ctx, q)
			if err != nil {
				return err
			}
			return c.printPage(ctx, s, page)
		})
	}
	return cmd
}

// printAll prints all pages. It serves the formats that have no place for a
// cursor.
func (c *cli) printAll(ctx context.Context, s *source, q operator.Query) error {
	q.Limit = exportPage
	for first := true; first || q.Cursor != ""; first = false {
		page, err := s.List(ctx, q)
		if err != nil {
			return err
		}
		if c.format == formatCSV {
			g := flat(page.Attempts)
			if !first {
				g.head = nil
			}
			err = c.printCSV(g)
		} else {
			err = c.printPage(ctx, s, page)
		}
		if err != nil {
			return err
		}
		q.Cursor = page.NextCursor
	}
	return nil
}

// printPage prints one page in the requested format.
func (c *cli) printPage(ctx context.Context, s *source, page operator.Page) error {
	switch c.format {
	case formatJSON:
		return c.printJSON(page)
	case formatJSONL:
		for i := range page.Attempts {
			if err := c.printJSONLine(page.Attempts[i]); err != nil {
				return err
			}
		}
		return nil
	case formatCSV:
		return c.printCSV(flat(page.Attempts))
	}
	if len(page.Unreadable) > 0 {
		if err := c.printf("Cannot be read: %s (see the rule unreadable)\n\n", strings.Join(page.Unreadable, ", ")); err != nil {
			return err
		}
	}
	if len(page.Attempts) == 0 {
		return c.printf("No attempts.\n")
	}
	info, err := s.Info(ctx)
	if err != nil {
		return err
	}
	if err = c.printGrid(c.attemptGrid(page.Attempts, info.Now.Time)); err != nil {
		return err
	}
	if page.NextCursor != "" {
		return c.printf("\nMore: --cursor %s\n", page.NextCursor)
	}
	return nil
}

// attemptGrid is the table for people; now is the store's time.
func (c *cli) attemptGrid(attempts []operator.View, now time.Time) *grid {
	g := &grid{
		head:  []string{"id", "state", "why", "user", "connection", "entered", "age", "callback", "stuck"},
		whole: []string{"id", "state", "age"},
		spare: []string{"entered", "callback"},
	}
	wide := c.format == formatWide
	if wide {
		g.head = append(g.head, "tenant", "conversation", "origin", "version", "created", "expires", "lease", "failure", "superseded by")
	}
	for i := range attempts {
		v := &attempts[i]
		row := []string{
			c.attemptID(v.ID), c.stateColor(v.State), why(v), c.id(v.Key.User), v.Key.Connection,
			c.time(v.Entered.Time), age(now.Sub(v.Entered.Time)), callback(v.Callback), c.stuck(v.Stuck),
		}
		if wide {
			row = append(row, c.id(v.Tenant), c.id(v.Conversation.ID), string(v.Origin), strconv.FormatInt(v.Version, 10),
				c.time(v.Created.Time), c.time(v.Expires.Time), lease(v.Lease), failure(v.Failure), c.attemptID(v.SupersededBy))
		}
		g.add(row...)
	}
	return g
}

// why says how the attempt completed or why it failed.
func why(v *operator.View) string { return cmp.Or(string(v.Method), string(v.Reason)) }

func callback(cb operator.CallbackView) string {
	if cb.Tries > 1 {
		return cb.Status + " (" + strconv.Itoa(cb.Tries) + " tries)"
	}
	return cb.Status
}

func (c *cli) stuck(s *operator.StuckView) string {
	if s == nil {
		return ""
	}
	return c.levelColor(s.Level, s.Rule)
}

func lease(l operator.LeaseView) string {
	switch {
	case l.Owner == "":
		return ""
	case l.Expired:
		return l.Owner + " (over)"
	default:
		return l.Owner
	}
}

func failure(f *operator.FailureView) string {
	if f == nil {
		return ""
	}
	text := f.Source
	if f.Operation != "" && f.Source != store.SourceClient {
		text += " " + f.Operation
	}
	if f.HTTPStatus != 0 {
		text += " " + strconv.Itoa(f.HTTPStatus)
	}
	if word := cmp.Or(f.Code, f.Kind); word != "" {
		text += " " + word
	}
	return text
}

// holds formats a verdict for a cell, which is empty without one.
func holds(v *bool) string {
	if v == nil {
		return ""
	}
	return strconv.FormatBool(*v)
}

// flat makes the CSV: each member of the JSON has a column named by its path.
func flat(attempts []operator.View) *grid {
	g := &grid{head: []string{
		"id", "app", "channel", "user", "connection", "tenant", "user_aad", "state", "version", "origin", "method", "reason",
		"sso_offered", "exchange_id", "card_activity_id", "conversation_type", "conversation_id", "created", "entered",
		"expires", "lease_owner", "lease_fence", "lease_until", "lease_expired", "verify_tries", "supersedes", "superseded_by",
		"failure_source", "failure_operation", "failure_http_status", "failure_code", "failure_kind", "failure_message",
		"sso_token_audience", "sso_token_version", "sso_token_tenant", "sso_token_user", "sso_token_client", "sso_token_fresh",
		"callback_status", "callback_tries", "stuck_rule", "stuck_level", "stuck_age_ms",
	}}
	for i := range attempts {
		v := &attempts[i]
		f := operator.FailureView{}
		if v.Failure != nil {
			f = *v.Failure
		}
		d := operator.DiagnosisView{}
		if v.Diagnosis != nil {
			d = *v.Diagnosis
		}
		s := operator.StuckView{}
		if v.Stuck != nil {
			s = *v.Stuck
		}
		g.add(v.ID, v.Key.App, v.Key.Channel, v.Key.User, v.Key.Connection, v.Tenant, v.UserAAD, string(v.State),
			strconv.FormatInt(v.Version, 10), string(v.Origin), string(v.Method), string(v.Reason),
			strconv.FormatBool(v.SSOOffered), v.ExchangeID, v.CardActivityID, v.Conversation.Type, v.Conversation.ID,
			v.Created.String(), v.Entered.String(), v.Expires.String(), v.Lease.Owner,
			strconv.FormatInt(v.Lease.Fence, 10), v.Lease.Until.String(), strconv.FormatBool(v.Lease.Expired),
			strconv.Itoa(v.VerifyTries), v.Supersedes, v.SupersededBy, f.Source, f.Operation,
			strconv.Itoa(f.HTTPStatus), f.Code, f.Kind, f.Message,
			holds(d.Audience), holds(d.Version), holds(d.Tenant), holds(d.User), holds(d.Client), holds(d.Fresh),
			v.Callback.Status, strconv.Itoa(v.Callback.Tries), s.Rule, s.Level,
			strconv.FormatInt(time.Duration(s.Age).Milliseconds(), 10))
	}
	return g
}

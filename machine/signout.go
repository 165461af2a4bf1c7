package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// signOut runs E1–E3 and E5 for one connection.
func (e *Engine) signOut(ctx context.Context, turn *Turn, f *Flow) (err error) {
	turn = turn.current()
	ctx, cancel := turn.bounded(ctx)
	defer cancel()
	defer func() { err = late(ctx, err) }()
	c := e.call(turn, f.conn.Name)
	c.received("SignOut")
	out, err := c.drive(ctx, byKey{}, table.Event{Kind: table.SignOutAsked})
	c.finish(ctx, out.attempt)
	return c.signedOut(out, err)
}

// signedOut turns the outcome of a sign-out into an error for the bot's code.
func (c *call) signedOut(out outcome, err error) error {
	if err == nil && out.reply == table.ReplyError {
		err = c.upstream
	}
	if err != nil {
		return fmt.Errorf("sign out of %s: %w", c.key.Connection, err)
	}
	return nil
}

// signOutAll runs E4: one DELETE without a connection name, then E1–E3 for
// each key of the user.
func (e *Engine) signOutAll(ctx context.Context, turn *Turn) (err error) {
	turn = turn.current()
	ctx, cancel := turn.bounded(ctx)
	defer cancel()
	defer func() { err = late(ctx, err) }()
	c := e.call(turn, "")
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey()})
	if err != nil {
		return fmt.Errorf("sign out of all connections: %w", err)
	}
	newest := newestOfEach(snap.Attempts)
	// Sign-ins under way are ended first, so that none completes after the DELETE
	// (E2).
	for i := range newest {
		if err := e.endBefore(ctx, turn, &newest[i]); err != nil {
			return err
		}
	}
	c.received("SignOut")
	ev := c.perform(ctx, table.Delete, nil, table.Event{Kind: table.SignOutAsked})
	c.note(store.Event{Kind: store.EventNote, Row: "E4", Status: ev.Status, Code: ev.Code, Detail: "sign-out of every connection"})
	c.finish(ctx, nil)
	if ev.Kind == table.SignOutError {
		return fmt.Errorf("sign out of all connections: %w", c.upstream)
	}
	for i := range newest {
		if f := e.registered(newest[i].Key.Connection); f != nil && f.conn.Tokens != nil {
			continue // the DELETE was not about it
		}
		if err := e.endAfter(ctx, turn, &newest[i]); err != nil {
			return err
		}
	}
	var errs []error
	for _, f := range e.flows {
		if f.conn.Tokens != nil {
			errs = append(errs, e.signOut(ctx, turn, f))
		}
	}
	return errors.Join(errs...)
}

// newestOfEach returns the newest attempt of each connection.
func newestOfEach(attempts []store.Attempt) []store.Attempt {
	seen := map[string]bool{}
	var out []store.Attempt
	for _, a := range attempts {
		if i := a.Key.Index(); !seen[i] {
			seen[i] = true
			out = append(out, a)
		}
	}
	return out
}

// endBefore ends a sign-in that has an upstream call under way, before the DELETE
// for all. A sign-in that is back at its card by then is left to endAfter.
func (e *Engine) endBefore(ctx context.Context, turn *Turn, a *store.Attempt) error {
	c := e.call(turn, a.Key.Connection)
	here, err := underWay{}.find(ctx, c, nil)
	if err != nil || here == nil {
		return c.signedOut(outcome{}, err)
	}
	c.received("SignOut")
	out, err := c.drive(ctx, underWay{}, table.Event{Kind: table.SignedOut})
	c.finish(ctx, out.attempt)
	return c.signedOut(out, err)
}

// endAfter settles one key of a user after the DELETE for all. An attempt that has
// completed since gets a DELETE of its own: its token may be newer.
func (e *Engine) endAfter(ctx context.Context, turn *Turn, before *store.Attempt) error {
	c := e.call(turn, before.Key.Connection)
	here, err := c.newest(ctx, c.key)
	if err != nil || here == nil {
		return c.signedOut(outcome{}, err)
	}
	ev := table.Event{Kind: table.SignedOut}
	if here.State == store.Complete && (here.ID != before.ID || before.State != store.Complete) {
		ev.Kind = table.SignOutAsked
	}
	c.received("SignOut")
	out, err := c.drive(ctx, byKey{}, ev)
	c.finish(ctx, out.attempt)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return c.signedOut(out, err)
}

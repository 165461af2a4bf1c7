package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/signin-engine/signin-engine/store"
)

// signOut runs E1–E3 and E5 for one connection.
func (e *Engine) signOut(ctx context.Context, turn *Turn, f *Flow) error {
	c := e.call(turn, f)
	c.locate = (*call).byKey
	return c.signOut(detach(ctx), "SignOut")
}

func (c *call) signOut(ctx context.Context, name string) error {
	c.received(name)
	c.in.Event.Kind = SignOutAsked
	out, err := c.drive(ctx)
	defer func() { c.finish(ctx, out.attempt) }()
	if err != nil {
		return fmt.Errorf("sign out of %s: %w", c.key.Connection, err)
	}
	if out.rule.Reply == ReplyError {
		return fmt.Errorf("sign out of %s: %w", c.key.Connection, c.upstream)
	}
	return nil
}

// signOutAll runs E4: one DELETE without a connection name, then E1–E3 for
// each key of the user.
func (e *Engine) signOutAll(ctx context.Context, turn *Turn) error {
	ctx = detach(ctx)
	c := e.call(turn, e.flows[0])
	c.key.Connection = ""
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey()})
	if err != nil {
		return fmt.Errorf("sign out of all connections: %w", err)
	}
	// Sign-ins under way are ended first, so that none completes after the
	// DELETE (E2).
	seen := map[string]bool{}
	var newest []store.Attempt
	for _, a := range snap.Attempts {
		if i := a.Key.Index(); !seen[i] {
			seen[i] = true
			newest = append(newest, a)
		}
	}
	for i := range newest {
		if err := e.settleSignOut(ctx, turn, &newest[i], true); err != nil {
			return err
		}
	}
	c.received("SignOut")
	ev := &c.in.Event
	ev.Kind = SignOutAsked
	c.perform(ctx, Delete, nil)
	c.note(store.Event{Kind: store.EventNote, Row: "E4", Status: ev.Status, Detail: "sign-out of every connection"})
	c.finish(ctx, nil)
	if ev.Kind == SignOutError {
		return fmt.Errorf("sign out of all connections: %w", c.upstream)
	}
	for i := range newest {
		if err := e.settleSignOut(ctx, turn, &newest[i], false); err != nil {
			return err
		}
	}
	return nil
}

// settleSignOut settles one key of a user without a DELETE of its own: before
// the one for all, only what talks to an upstream; after it, the rest.
func (e *Engine) settleSignOut(ctx context.Context, turn *Turn, seen *store.Attempt, before bool) error {
	k := seen.Key
	c := e.call(turn, &Flow{eng: e, conn: Connection{Name: k.Connection}})
	c.locate = (*call).byKey
	here, err := c.byKey(ctx)
	if err != nil {
		return fmt.Errorf("sign out of %s: %w", k.Connection, err)
	}
	if a := here.attempt; a == nil || before && a.State != store.Exchanging && a.State != store.Verifying {
		return nil
	}
	if before {
		c.locate = (*call).underWay // what has come back to its card by now is E1's, after the DELETE
	}
	c.received("SignOut")
	ev := &c.in.Event
	ev.Kind = SignedOut
	if here.attempt.State == store.Complete && (here.attempt.ID != seen.ID || seen.State != store.Complete) {
		ev.Kind = SignOutAsked // complete since: its token may be younger than the DELETE for all
	}
	out, err := c.drive(ctx)
	c.finish(ctx, out.attempt)
	var illegal *IllegalTransitionError
	switch {
	case err != nil && !errors.As(err, &illegal):
		return fmt.Errorf("sign out of %s: %w", k.Connection, err)
	case err == nil && out.rule.Reply == ReplyError:
		return fmt.Errorf("sign out of %s: %w", k.Connection, c.upstream)
	}
	return nil
}

// underWay is byKey for an attempt that talks to an upstream; none otherwise.
func (c *call) underWay(ctx context.Context) (sighting, error) {
	here, err := c.byKey(ctx)
	if a := here.attempt; a != nil && a.State != store.Exchanging && a.State != store.Verifying {
		return sighting{}, err
	}
	return here, err
}

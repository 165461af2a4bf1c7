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
	c.locate = c.byKey
	return c.signOut(context.WithoutCancel(ctx), "SignOut")
}

func (c *call) signOut(ctx context.Context, name string) error {
	c.received(name)
	out, err := c.drive(ctx, Event{Kind: SignOutAsked})
	defer func() { c.finish(out.Attempt) }()
	if err != nil {
		return fmt.Errorf("sign out of %s: %w", c.key.Connection, err)
	}
	if out.Rule.Reply == ReplyError {
		return fmt.Errorf("sign out of %s: %w", c.key.Connection, c.upstream)
	}
	return nil
}

// signOutAll runs E4: one DELETE without a connection name, then E1–E3 for
// each key of the user.
func (e *Engine) signOutAll(ctx context.Context, turn *Turn) error {
	ctx = context.WithoutCancel(ctx)
	c := e.call(turn, e.flows[0])
	c.key.Connection = ""
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey()})
	if err != nil {
		return fmt.Errorf("sign out of all connections: %w", err)
	}
	// Sign-ins under way are ended first, so that none completes after the
	// DELETE (E2).
	newest := map[string]bool{}
	var keys []store.Key
	for _, a := range snap.Attempts {
		if i := a.Key.Index(); !newest[i] {
			newest[i] = true
			keys = append(keys, a.Key)
		}
	}
	for _, k := range keys {
		if err := e.settleSignOut(ctx, turn, k, true); err != nil {
			return err
		}
	}
	ev := c.perform(ctx, Delete, nil, Event{Kind: SignOutAsked})
	c.noted = true
	c.finish(nil)
	if ev.Kind == SignOutError {
		return fmt.Errorf("sign out of all connections: %w", c.upstream)
	}
	for _, k := range keys {
		if err := e.settleSignOut(ctx, turn, k, false); err != nil {
			return err
		}
	}
	return nil
}

// settleSignOut settles one key of a user without a DELETE of its own: before
// the one for all, only what talks to an upstream; after it, the rest.
func (e *Engine) settleSignOut(ctx context.Context, turn *Turn, k store.Key, before bool) error {
	c := e.call(turn, &Flow{eng: e, conn: Connection{Name: k.Connection}})
	c.locate = c.byKey
	here, err := c.byKey(ctx)
	if err != nil {
		return fmt.Errorf("sign out of %s: %w", k.Connection, err)
	}
	if a := here.attempt; a == nil || before && a.State != store.Exchanging && a.State != store.Verifying {
		return nil
	}
	c.received("SignOut")
	out, err := c.drive(ctx, Event{Kind: SignedOut})
	c.finish(out.Attempt)
	var illegal *IllegalTransitionError
	if err != nil && !errors.As(err, &illegal) {
		return fmt.Errorf("sign out of %s: %w", k.Connection, err)
	}
	return nil
}

package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// signIn runs rows A of the table: the bot asks in a turn.
func (e *Engine) signIn(ctx context.Context, turn *Turn, f *Flow, o signInOptions) (tokensvc.Token, error) {
	if turn.to.UserID == "" || turn.to.ServiceURL == "" || turn.to.ID == "" {
		return tokensvc.Token{}, errors.New("sign in: the turn names no user, conversation or service URL")
	}
	c := e.call(turn, f)
	defer c.release()
	c.cardText, c.button = o.text, o.button
	c.token, c.in.Request = turn.fetched[f], e.sealed(turn.act)
	c.locate = (*call).byKey
	c.in.Event.Kind = SignInAsked
	c.received("SignIn")
	out, err := c.drive(detach(ctx))
	defer func() { c.finish(ctx, out.attempt) }()
	if err != nil {
		e.report(ctx, turn.act, err)
		return tokensvc.Token{}, fmt.Errorf("sign in to %s: %w", f.conn.Name, err)
	}
	switch out.rule.Reply {
	case ReplyToken:
		if out.rule.Row == "A1" {
			e.silentHits.add()
		}
		return c.token, nil
	case ReplyWait:
		return tokensvc.Token{}, nil
	default:
		err := c.upstream
		if err == nil {
			err = errors.New("the sign-in could not be started")
		}
		e.log.Warn().Str("user", c.key.User).Str("connection", c.key.Connection).Str("row", out.rule.Row).
			Err(err).Msg("sign-in not started")
		e.report(ctx, turn.act, err)
		return tokensvc.Token{}, fmt.Errorf("sign in to %s: %w", f.conn.Name, err)
	}
}

// call begins the handling of something about one connection of a turn's user.
func (e *Engine) call(turn *Turn, f *Flow) *call {
	c := e.newCall()
	c.turn, c.act, c.flow = turn, turn.act, f
	c.key = turn.userKey().connection(f.conn.Name)
	c.in.Conversation = turn.to
	return c
}

type userKey store.UserKey

func (t *Turn) userKey() userKey {
	return userKey{App: t.eng.app, Channel: store.BaseChannel(t.to.Channel), User: t.to.UserID}
}

func (u userKey) connection(name string) store.Key {
	return store.Key{App: u.App, Channel: u.Channel, User: u.User, Connection: name}
}

// byKey finds the attempt that is under way for the call's key, else the
// newest one.
func (c *call) byKey(ctx context.Context) (sighting, error) {
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey(), Connection: c.key.Connection})
	if err != nil || len(snap.Attempts) == 0 {
		return sighting{}, err
	}
	return sighting{attempt: &snap.Attempts[0]}, nil
}

func (c *call) find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	snap, err := c.eng.store.Find(ctx, q)
	if err != nil {
		return store.Snapshot{}, fmt.Errorf("read attempts of %s: %w", q.User.User, err)
	}
	c.saw(snap.Now)
	return snap, nil
}

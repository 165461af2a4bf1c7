package machine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Pending says what a sign-in waits for.
type Pending string

// The kinds of pending. Only after CardSent does the user see something new; otherwise
// the bot should say something.
const (
	NotPending Pending = ""                 // there is a token
	CardSent   Pending = "card sent"        // a card is out now
	CardOut    Pending = "card already out" // an earlier card is on the user's screen
	UnderWay   Pending = "under way"        // another device or instance is at it
)

// SignInResult is the result of a SignIn without an error.
type SignInResult struct {
	Token   tokensvc.Token // empty while the sign-in is pending
	Pending Pending
	Attempt string // id of the attempt that is pending, for [Flow.Wait]
}

// SignedIn reports whether there is a token.
func (r SignInResult) SignedIn() bool { return r.Pending == NotPending }

// signIn runs rows A of the table: the bot calls SignIn in a turn.
func (e *Engine) signIn(ctx context.Context, turn *Turn, f *Flow, o signInOptions) (_ SignInResult, err error) {
	if turn.to.UserID == "" || turn.to.ServiceURL == "" || turn.to.ID == "" {
		return SignInResult{}, errors.New("sign in: the turn names no user, conversation or service URL")
	}
	if strings.ContainsRune(o.purpose, 0) {
		return SignInResult{}, errors.New("sign in: the purpose has a NUL character")
	}
	if turn.agentic() {
		return SignInResult{}, fmt.Errorf("sign in to %s: %w", f.conn.Name, ErrAgentic)
	}
	turn = turn.current()
	ctx, cancel := turn.bounded(ctx)
	defer cancel()
	defer func() { err = late(ctx, err) }()
	c := e.call(turn, f.conn.Name)
	c.card.text, c.card.button = o.text, o.button
	c.token, c.asked, c.purpose = turn.fetched[f], true, o.purpose
	c.received("SignIn")
	ev := table.Event{Kind: table.SignInAsked}
	if turn.act != nil {
		ev.Activity = turn.act.ID
	}
	known, number := e.quiet.knows(c.key)
	if known {
		looked := c.perform(ctx, table.AskToken, nil, ev)
		if looked.Kind == table.TokenFound { // A1
			c.finish(ctx, nil)
			e.silentHits.add()
			return SignInResult{Token: c.token}, nil
		}
		c.looked = &looked
	}
	out, err := c.drive(ctx, byKey{}, ev)
	if err == nil && o.purpose != "" && (out.reply == table.ReplyCardOut || out.reply == table.ReplyElsewhere) {
		out, err = c.keep(ctx, out)
	}
	about := out.attempt
	if out.row == "A4" && about != nil && about.State.Terminal() {
		about = nil // it had ended before this sign-in began
	}
	defer c.finish(ctx, about)
	if err != nil {
		e.report(ctx, turn.act, err)
		return SignInResult{}, fmt.Errorf("sign in to %s: %w", f.conn.Name, err)
	}
	pending := SignInResult{}
	if out.attempt != nil {
		pending.Attempt = out.attempt.ID
	}
	switch out.reply {
	case table.ReplyToken:
		if out.row == "A1" {
			e.silentHits.add()
			e.quiet.found(c.key, number)
		}
		return SignInResult{Token: c.token}, nil
	case table.ReplyCardSent:
		pending.Pending = CardSent
		return pending, nil
	case table.ReplyCardOut:
		pending.Pending = CardOut
		return pending, nil
	case table.ReplyElsewhere:
		pending.Pending = UnderWay
		return pending, nil
	default: // an error
	}
	if err = c.upstream; err == nil {
		err = errors.New("the sign-in could not be started")
	}
	e.logger(ctx).Warn().Str("user", c.key.User).Str("connection", c.key.Connection).Str("row", out.row).
		Err(err).Msg("sign-in not started")
	e.report(ctx, turn.act, err)
	return SignInResult{}, fmt.Errorf("sign in to %s: %w", f.conn.Name, err)
}

// keep adds the turn's activity to those that the pending attempt keeps. If the attempt
// has ended meanwhile, the outcome is that of another SignIn.
func (c *call) keep(ctx context.Context, pending outcome) (outcome, error) {
	c.looked, c.noToken = nil, false // if it ends meanwhile, there may be a token
	ev := unanswered(pending.event)
	ev.Kind = table.AskedMore
	out, err := c.drive(ctx, toKeep{}, ev)
	if err == nil && out.reply == table.NoReply {
		out.row, out.reply = pending.row, pending.reply
	}
	return out, err
}

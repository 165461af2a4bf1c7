package machine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Ask is the part of a message extension's or an Adaptive Card's invoke that concerns
// its user's sign-in (rows M).
type Ask struct {
	Connection string
	// Via is store.OriginCompose or store.OriginCardAction.
	Via store.Origin
	// State is the code of a popup, or CancelledByUser.
	State tokensvc.Secret
	// ExchangeID and Token are the client's SSO token.
	ExchangeID string
	Token      tokensvc.Secret
}

// Access is the result of an [Ask].
type Access struct {
	// Token is the user's token; empty if there is none.
	Token tokensvc.Token
	// Pending says what the sign-in waits for when there is no token.
	Pending Pending
	// Attempt is the id of the pending attempt. Resource is for the answer that asks
	// the user to sign in.
	Attempt  string
	Resource tokensvc.SignInResource
	// Refused is the status for a refused token or code: 412, 404, or the upstream's. 0
	// = none was refused.
	Refused int
	// Cancelled: the user closed the popup.
	Cancelled bool
}

// Authorize runs rows M. It takes the code or the token of the invoke and checks
// whether the user is signed in. If not, it begins an attempt whose card is the
// invoke's answer. An error means that the store or the Token Service failed.
func (e *Engine) Authorize(ctx context.Context, turn *Turn, ask Ask) (got Access, err error) {
	f, err := e.Flow(ask.Connection)
	if err != nil {
		return Access{}, err
	}
	if turn.to.UserID == "" {
		return Access{}, errors.New("authorize: the turn names no user")
	}
	if turn.agentic() {
		return Access{}, fmt.Errorf("authorize: %w", ErrAgentic)
	}
	turn = turn.current()
	ctx, cancel := turn.bounded(ctx)
	defer cancel()
	defer func() { err = late(ctx, err) }()
	begin := func() *call {
		c := e.call(turn, f.conn.Name)
		c.via = ask.Via
		return c
	}
	switch {
	case strings.EqualFold(ask.State.Reveal(), cancelledByUser):
		return Access{Cancelled: true}, begin().closed(ctx)
	case !ask.State.Empty():
		got, err = begin().tryCode(ctx, ask.State)
	case !ask.Token.Empty():
		got, err = begin().tryToken(ctx, ask)
	}
	if err != nil || !got.Token.Token.Empty() || got.Refused != 0 && !ask.Token.Empty() {
		return got, err
	}
	refused := got.Refused
	got, err = begin().ask(ctx)
	got.Refused = refused
	return got, err
}

// closed notes that the user closed the popup (M6).
func (c *call) closed(ctx context.Context) error {
	c.received(c.turn.act.Name)
	out, err := c.drive(ctx, byKey{}, c.event(table.PopupClosed))
	if err != nil {
		return fmt.Errorf("authorize: %w", err)
	}
	c.answer(ctx, out, Answer{Status: http.StatusOK})
	return nil
}

// tryCode offers a code to the invoke's connection (M3, M4).
func (c *call) tryCode(ctx context.Context, code tokensvc.Secret) (Access, error) {
	c.received(c.turn.act.Name)
	c.code = code
	ev := c.event(table.VerifyState)
	ev.CodeMarks = c.eng.mark("code", c.key.UserKey(), code)
	ev.Only, ev.First, ev.Attributed = true, true, true
	out, err := c.drive(ctx, byKey{}, ev)
	if err != nil {
		return Access{}, fmt.Errorf("authorize: %w", err)
	}
	got := Access{Token: c.token}
	if out.event.Kind == table.CodeSpent {
		got = Access{} // the code was not spent: the user is already signed in with other credentials
	}
	switch out.reply {
	case table.ReplyOK: // a repeat of a code that was used is answered like a query without one
	case table.ReplyRecord:
		got.Refused = out.attempt.CodeStatus
	case table.ReplyStatus, table.ReplyNext:
		got.Refused = statusOr412(out.event.Status)
	default:
		got.Refused = http.StatusPreconditionFailed
	}
	c.answer(ctx, out, Answer{Status: max(got.Refused, http.StatusOK)})
	return got, nil
}

// tryToken exchanges the client's SSO token (M5).
func (c *call) tryToken(ctx context.Context, ask Ask) (Access, error) {
	c.received(c.turn.act.Name)
	if c.mismatch(ctx, ask.Token) && c.rejects() {
		c.refuse(ctx, "§9", http.StatusForbidden, "an SSO token of another user", nil)
		return Access{Refused: http.StatusForbidden}, nil
	}
	c.ssoToken = ask.Token
	ev := c.event(table.TokenExchange)
	if len(ask.ExchangeID) <= maxExchangeID {
		ev.ExchangeID = ask.ExchangeID
	}
	ev.TokenMarks = c.eng.mark("token", c.key.UserKey(), ask.Token)
	out, err := c.drive(ctx, byExchange{}, ev)
	if err != nil {
		return Access{}, fmt.Errorf("authorize: %w", err)
	}
	answer := c.eng.exchangeAnswer(out, ExchangeResponse{})
	c.answer(ctx, out, Answer{Status: answer.Status})
	got := Access{Token: c.token}
	if answer.Status != http.StatusOK {
		got = Access{Refused: answer.Status}
	}
	return got, nil
}

// ask looks for a token, and opens an attempt if there is none (M1).
func (c *call) ask(ctx context.Context) (Access, error) {
	c.card.text, c.card.button = c.flow().conn.CardText, c.flow().conn.ButtonText
	c.asked = true
	ev := c.event(table.SignInAsked)
	ev.Invoke = "" // it is a request, not a client's answer to a card
	c.received(c.turn.act.Name)
	out, err := c.drive(ctx, byKey{}, ev)
	defer c.finish(ctx, out.attempt)
	if err != nil {
		return Access{}, fmt.Errorf("authorize: %w", err)
	}
	got := Access{Token: c.token, Resource: c.card.resource}
	if out.attempt != nil {
		got.Attempt = out.attempt.ID
	}
	switch out.reply {
	case table.ReplyToken:
		return Access{Token: c.token}, nil
	case table.ReplyCardSent:
		got.Pending = CardSent
		return got, nil
	case table.ReplyCardOut:
		got.Pending = CardOut
		// Every keystroke's answer needs a sign-in link, so the resource is fetched again.
		if got.Resource, err = c.tokens().GetSignInResource(ctx, c.state(c.turn.to)); err != nil {
			return Access{}, fmt.Errorf("authorize: %w", err)
		}
		if a := out.attempt; a != nil && (!a.SSOOffered || a.SSOOutcome != "") {
			got.Resource.TokenExchangeResource = nil // SSO was not offered, or has failed
		}
		return got, nil
	case table.ReplyElsewhere:
		got.Pending = UnderWay
		return got, nil
	default:
		if c.upstream == nil {
			c.upstream = errors.New("the sign-in could not be started")
		}
		return Access{}, fmt.Errorf("authorize: %w", c.upstream)
	}
}

package machine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// perform talks to an upstream on behalf of an attempt (nil: of none) and
// makes the event what it said. The invoke's own members (id, marks, candidate
// flags) stay in the event.
func (c *call) perform(ctx context.Context, act Act, a *store.Attempt) {
	ev := &c.in.Event
	ev.Status, ev.Code, ev.Message, ev.Detail, ev.Fence = 0, "", "", "", 0
	ev.Raced, ev.Another = false, false
	began := c.eng.clock()
	if underClaim(act, a) && a.Lease.Owner == c.eng.instance {
		ev.Fence = a.Lease.Fence
		if a.Lease.Until.Sub(c.at(began)) < c.eng.timeouts.Upstream {
			// A claim this old may be lost before the answer is here (§3).
			c.unanswered(act, ev)
			return
		}
	}
	bounded, cancel := context.WithTimeout(ctx, c.eng.timeouts.Upstream)
	defer cancel()
	failpoint("before", string(act))
	c.reach(bounded, act, ev)
	failpoint("after", string(act))
	c.reached(act, a, began)
}

// reached writes the audit line of an upstream call.
func (c *call) reached(act Act, a *store.Attempt, began time.Time) {
	ev, ended := &c.in.Event, c.eng.clock()
	took := ended.Sub(began)
	line := store.Event{
		Kind: store.EventUpstream, Time: c.at(ended), Instance: c.eng.instance, Invoke: string(act),
		Status: ev.Status, Duration: took, Detail: ev.Detail,
	}
	if a != nil {
		line.Attempt = a.ID
	} else {
		line.Key = c.key
	}
	c.lines = append(c.lines, line)
	c.eng.log.Debug().Str("attempt", line.Attempt).Str("call", string(act)).Int("status", ev.Status).
		Dur("took", took).Str("detail", ev.Detail).Msg("upstream")
	if c.eng.hooks.OnUpstream != nil {
		c.eng.hooks.OnUpstream(string(act), ev.Status, took)
	}
}

// underClaim reports whether the call is made under the attempt's lease.
func underClaim(act Act, a *store.Attempt) bool {
	if a == nil {
		return false
	}
	switch act {
	case AskResource, PostCard:
		return a.State == store.Idle
	case Exchange:
		return a.State == store.Exchanging
	case Redeem:
		return a.State == store.Verifying
	case Recover:
		return a.State == store.Exchanging || a.State == store.Verifying
	case Nothing, Wait, Again, Resume, AskToken, SpendCode, Delete, DeleteAgain:
		return false
	}
	return false
}

// unanswered makes the event that of a call that was not made.
func (c *call) unanswered(act Act, ev *Event) {
	ev.Detail = "not started: too little of the lease is left"
	c.upstream = errors.New(ev.Detail)
	switch act {
	case AskToken:
		ev.Kind = LookupFailed
	case AskResource:
		ev.Kind = ResourceFailed
	case PostCard:
		ev.Kind = CardRejected
	case Exchange:
		ev.Kind = ExchangeRefused
	case Redeem:
		ev.Kind = VerifyFailed
	case SpendCode:
		ev.Kind = CodeSpent
	case Recover:
		ev.Kind = RecoverFailed
	case Delete, DeleteAgain:
		ev.Kind = SignOutError
	case Nothing, Wait, Again, Resume:
	}
}

func (c *call) reach(ctx context.Context, act Act, out *Event) {
	switch act {
	case AskToken:
		c.askToken(ctx, out)
	case AskResource:
		c.askResource(ctx, out)
	case PostCard:
		c.postCard(ctx, out)
	case Exchange:
		c.exchange(ctx, out)
	case Redeem, SpendCode:
		c.redeem(ctx, act, out)
	case Recover:
		c.recover(ctx, out)
	case Delete, DeleteAgain:
		err := c.eng.tokens.SignOut(ctx, c.userConnection())
		c.describe(out, err)
		out.Kind = SignedOut
		if err != nil {
			out.Kind = SignOutError
		} else {
			out.Status = http.StatusOK
		}
	case Nothing, Wait, Again, Resume:
	}
}

func (c *call) userConnection() tokensvc.UserConnection {
	return tokensvc.UserConnection{UserID: c.key.User, Connection: c.key.Connection, ChannelID: c.key.Channel}
}

// describe puts what went wrong into the event: status, code, and words that
// hold no secret.
func (c *call) describe(ev *Event, err error) {
	if err == nil {
		return
	}
	c.upstream = err
	var known interface{ HTTPStatus() int }
	if errors.As(err, &known) {
		ev.Status = known.HTTPStatus()
	}
	var te *tokensvc.Error
	if errors.As(err, &te) {
		ev.Code = te.Code
	}
	ev.Message = err.Error()
	ev.Detail = short(err)
}

// short is a failureDetail: what a person may read, never a stack or a token.
func short(err error) string {
	var (
		known interface{ HTTPStatus() int }
		te    *tokensvc.Error
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, tokensvc.ErrNoToken), errors.As(err, &te) && te.Status == http.StatusOK:
		return "no token"
	case !errors.As(err, &known) || known.HTTPStatus() == 0:
		return "no answer"
	case known.HTTPStatus() == http.StatusOK:
		return "no token"
	case errors.As(err, &te) && te.Code != "":
		return http.StatusText(te.Status) + " (" + te.Code + ")"
	default:
		return http.StatusText(known.HTTPStatus())
	}
}

// askToken asks whether the user is signed in. A recovery that has just asked
// the same is not repeated.
func (c *call) askToken(ctx context.Context, out *Event) {
	switch {
	case !c.token.Token.Empty():
		out.Kind, out.Status = TokenFound, http.StatusOK
		return
	case c.missed:
		out.Kind, out.Status = NoToken, http.StatusNotFound
		return
	case c.eng.policy.CombinedLookup && !c.movesToChat():
		c.askBoth(ctx, out)
		return
	}
	tok, err := c.eng.tokens.GetToken(ctx, c.userConnection(), tokensvc.Secret{})
	switch {
	case err == nil:
		c.token = tok
		out.Kind, out.Status = TokenFound, http.StatusOK
	case errors.Is(err, tokensvc.ErrNoToken):
		out.Kind, out.Status = NoToken, http.StatusNotFound
	default:
		out.Kind = LookupFailed
		c.describe(out, err)
	}
}

// askBoth is GetToken and GetSignInResource in one round trip.
func (c *call) askBoth(ctx context.Context, out *Event) {
	tok, res, err := c.eng.tokens.GetTokenOrSignInResource(ctx, c.userConnection(), c.state(), tokensvc.Secret{})
	switch {
	case err == nil && tok != nil && !tok.Token.Empty():
		c.token = *tok
		out.Kind, out.Status = TokenFound, http.StatusOK
	case err == nil && res != nil:
		c.resource = *res
		out.Kind, out.Status, out.Detail = NoToken, http.StatusOK, "no token, but a resource"
	case err == nil, errors.Is(err, tokensvc.ErrNoToken):
		out.Kind, out.Status = NoToken, http.StatusNotFound
	default:
		out.Kind = LookupFailed
		c.describe(out, err)
	}
}

func (c *call) state() tokensvc.State {
	s := tokensvc.State{
		Connection: c.key.Connection, ChannelID: c.key.Channel, UserID: c.key.User, MsAppID: c.eng.app,
	}
	if c.turn != nil {
		s.BotID, s.ConversationID, s.ServiceURL = c.turn.to.BotID, c.turn.to.ID, c.turn.to.ServiceURL
	}
	if c.cardTo.ID != "" {
		s.ConversationID = c.cardTo.ID
	}
	if c.act != nil {
		s.ActivityID = c.act.ID
	}
	return s
}

// openChat decides where the card goes: where the user asked, or, in a group
// and with group_chat one_to_one, the user's own chat with the bot.
func (c *call) openChat(ctx context.Context, out *Event) error {
	c.cardTo = c.turn.to
	if !c.movesToChat() {
		return nil
	}
	id, err := c.eng.out.CreateConversation(ctx, c.cardTo)
	if err != nil {
		return fmt.Errorf("open the 1:1 chat: %w", err)
	}
	c.cardTo.ID, c.cardTo.Type, c.cardTo.IsGroup = id, "personal", false
	out.CardConversation = id
	return nil
}

// movesToChat reports whether the card goes elsewhere than where the user
// asked. Then no resource can be asked for before that chat is open.
func (c *call) movesToChat() bool {
	return c.eng.policy.GroupChat == OneToOne && isGroup(c.turn.to)
}

func isGroup(conv store.Conversation) bool {
	return conv.IsGroup || conv.Type == "groupChat" || conv.Type == "channel"
}

func (c *call) askResource(ctx context.Context, out *Event) {
	if err := c.openChat(ctx, out); err != nil {
		out.Kind = ResourceFailed
		c.describe(out, err)
		return
	}
	out.Detail = "came with the look-up"
	if c.resource.SignInLink.Empty() {
		out.Detail = ""
		res, err := c.eng.tokens.GetSignInResource(ctx, c.state())
		if err != nil {
			out.Kind = ResourceFailed
			c.describe(out, err)
			return
		}
		c.resource = res
	}
	out.Kind, out.Status = ResourceCame, http.StatusOK
	offered := c.resource.TokenExchangeResource
	if offered == nil {
		return
	}
	if !c.eng.offersSSO(c.cardTo) {
		c.resource.TokenExchangeResource = nil
		out.Withheld = true
		return
	}
	out.SSO, out.ExchangeID = true, offered.ID
}

// offersSSO: personal chats have SSO, group chats if the policy says so,
// channels never (A14).
func (e *Engine) offersSSO(conv store.Conversation) bool {
	switch {
	case conv.Type == "channel":
		return false
	case conv.Type == "groupChat", conv.IsGroup:
		return e.policy.GroupSSO
	default:
		return true
	}
}

func (c *call) postCard(ctx context.Context, out *Event) {
	card := &OAuthCard{Text: c.cardText, Connection: c.key.Connection, Button: c.button, Resource: c.resource}
	m := Message{Card: card}
	if c.cardTo.ID == c.turn.to.ID && c.act != nil {
		m.ReplyTo = c.act.ID
	}
	id, err := c.eng.out.Send(ctx, c.cardTo, m)
	if err == nil {
		out.Kind, out.Status, out.CardID = CardAccepted, http.StatusOK, id
		return
	}
	c.describe(out, err)
	out.Kind = CardUnclear
	if out.Status >= http.StatusBadRequest && out.Status < http.StatusInternalServerError {
		out.Kind = CardRejected
	}
}

// exchange hands the SSO token to the Token Service, which is idempotent:
// Retry-After is honoured while the deadline allows.
func (c *call) exchange(ctx context.Context, out *Event) {
	for {
		tok, err := c.eng.tokens.Exchange(ctx, c.userConnection(), c.ssoToken)
		if err == nil {
			c.token = tok
			out.Kind, out.Status = ExchangeOK, http.StatusOK
			return
		}
		if pause := retryAfter(ctx, err); pause > 0 && sleep(ctx, pause) == nil {
			continue
		}
		c.describe(out, err)
		switch out.Status {
		case 0, http.StatusOK, http.StatusBadRequest, http.StatusNotFound, http.StatusPreconditionFailed:
			out.Kind = ExchangeRefused
		default:
			out.Kind = ExchangeFailed
		}
		return
	}
}

// retryAfter is how long a 429 or 503 asks to wait, 0 if it does not or if the
// deadline comes first.
func retryAfter(ctx context.Context, err error) time.Duration {
	var te *tokensvc.Error
	if !errors.As(err, &te) || te.RetryAfter <= 0 {
		return 0
	}
	if te.Status != http.StatusTooManyRequests && te.Status != http.StatusServiceUnavailable {
		return 0
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= te.RetryAfter {
		return 0
	}
	return te.RetryAfter
}

// redeem sends the code, once: it may be spent even by a failure.
func (c *call) redeem(ctx context.Context, act Act, out *Event) {
	tok, err := c.eng.tokens.GetToken(ctx, c.userConnection(), c.code)
	c.describe(out, err)
	switch {
	case err == nil:
		c.token = tok
		out.Kind, out.Status = VerifyOK, http.StatusOK
	case errors.Is(err, tokensvc.ErrNoToken):
		out.Kind, out.Status = VerifyMiss, http.StatusNotFound
	case out.Status == http.StatusBadRequest, out.Status == http.StatusPreconditionFailed:
		out.Kind = VerifyRefused
	default:
		out.Kind = VerifyFailed
	}
	if act == SpendCode {
		out.Kind = CodeSpent
	}
}

// recover asks for upstream's truth without a code or an SSO token.
func (c *call) recover(ctx context.Context, out *Event) {
	tok, err := c.eng.tokens.GetToken(ctx, c.userConnection(), tokensvc.Secret{})
	c.describe(out, err)
	switch {
	case err == nil:
		c.token = tok
		out.Kind, out.Status = Recovered, http.StatusOK
	case errors.Is(err, tokensvc.ErrNoToken):
		c.missed = true
		out.Kind, out.Status = NotRecovered, http.StatusNotFound
	default:
		out.Kind = RecoverFailed
	}
}

package machine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// perform calls an upstream on behalf of an attempt (nil = none) and returns the
// answer as the next event. The event keeps the invoke's own members.
func (c *call) perform(ctx context.Context, act table.Act, a *store.Attempt, ev table.Event) table.Event {
	ev = unanswered(ev)
	began := c.eng.clock()
	if underClaim(act, a) && a.Lease.Owner == c.eng.instance {
		ev.Fence = a.Lease.Fence
		if a.Lease.Until.Sub(c.clock.at(began)) < c.eng.timeouts.Upstream {
			// The claim may be lost before the answer is here (§3).
			return c.notStarted(act, ev, "not started: too little of the lease is left")
		}
	}
	left := c.turn.left(c.eng.timeouts.Upstream, answerWithin-upstreamUntil)
	if left <= 0 {
		return c.notStarted(act, ev, "not started: the invoke has to be answered")
	}
	if act == table.PostCard {
		// The user may have the card even if the store fails afterwards. An invoke of the
		// card finds the attempt as it is (A9).
		c.claim = claim{}
	}
	bounded, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	failpoint("before", string(act))
	ev = c.reachSafely(bounded, act, a, ev)
	failpoint("after", string(act))
	if !c.spared {
		c.reached(ctx, act, a, ev, began)
	}
	c.spared = false
	return ev
}

// unanswered clears what an earlier upstream call has put into the event.
func unanswered(ev table.Event) table.Event {
	ev.Operation, ev.Source, ev.Status, ev.Cause, ev.Code, ev.Message, ev.Detail = "", "", 0, 0, "", "", ""
	ev.Consent, ev.Fence, ev.Raced, ev.Another = false, 0, false, false
	return ev
}

// reached writes the audit line of an upstream call.
func (c *call) reached(ctx context.Context, act table.Act, a *store.Attempt, ev table.Event, began time.Time) {
	ended := c.eng.clock()
	took := ended.Sub(began)
	called, status := string(act), ev.Status
	if ev.Operation != "" && ev.Operation != operation(act) {
		called = ev.Operation // a prerequisite call, which failed
	}
	if ev.Cause != 0 {
		status = ev.Cause // the call itself was never made
	}
	line := store.Event{
		Kind: store.EventUpstream, Time: c.clock.at(ended), Instance: c.eng.instance, Invoke: called,
		Status: status, Source: ev.Source, Code: ev.Code, Duration: took, Detail: ev.Detail,
	}
	if a != nil && !beforeNext(act, a) {
		line.Attempt = a.ID
	} else {
		line.Key = c.key
	}
	c.lines = append(c.lines, line)
	c.eng.logger(ctx).Debug().Str("attempt", line.Attempt).Str("call", called).Int("status", status).
		Dur("took", took).Str("detail", ev.Detail).Msg("upstream")
}

// beforeNext reports whether the call belongs to a sign-in that begins after a has
// ended. Its line then belongs to the next attempt, or to none.
func beforeNext(act table.Act, a *store.Attempt) bool {
	return a.State.Terminal() && (act == table.AskToken || act == table.AskResource)
}

// underClaim reports whether the call is made under the attempt's lease.
func underClaim(act table.Act, a *store.Attempt) bool {
	if a == nil {
		return false
	}
	switch act {
	case table.PostCard:
		return a.State == store.Idle
	case table.Exchange:
		return a.State == store.Exchanging
	case table.Redeem:
		return a.State == store.Verifying
	case table.Recover:
		return a.State == store.Exchanging || a.State == store.Verifying
	default:
		return false
	}
}

// notStarted is the event of a call that was not made.
func (c *call) notStarted(act table.Act, ev table.Event, why string) table.Event {
	ev.Operation, ev.Source = operation(act), store.SourceTokenService
	ev.Detail = why
	c.upstream = errors.New(ev.Detail)
	switch act {
	case table.PostCard:
		ev.Kind, ev.Source = table.CardRejected, store.SourceConnector
	case table.Exchange:
		ev.Kind = table.ExchangeRefused
	case table.Redeem:
		ev.Kind = table.VerifyFailed
	case table.SpendCode:
		ev.Kind = table.CodeSpent
	case table.AskToken:
		ev.Kind = table.LookupFailed
	case table.AskResource:
		ev.Kind = table.ResourceFailed
	case table.Delete, table.DeleteAgain:
		ev.Kind = table.SignOutError
	default:
		ev.Kind = table.RecoverFailed
	}
	return ev
}

// reachSafely is reach. An upstream that panics, which may be the bot's own code, has
// given no answer.
func (c *call) reachSafely(ctx context.Context, act table.Act, a *store.Attempt, ev table.Event) (answer table.Event) {
	err := guarded(func() error { answer = c.reach(ctx, act, a, ev); return nil })
	if err == nil {
		return answer
	}
	c.eng.logger(ctx).Error().Str("call", string(act)).Err(err).Msg("an upstream")
	answer = c.notStarted(act, ev, "no answer")
	if act == table.PostCard {
		answer.Kind = table.CardUnclear // it may have been sent
	}
	return answer
}

func (c *call) reach(ctx context.Context, act table.Act, a *store.Attempt, ev table.Event) table.Event {
	switch act {
	case table.AskToken:
		return c.askToken(ctx, a, ev)
	case table.AskResource:
		return c.askResource(ctx, a, ev)
	case table.PostCard:
		return c.postCard(ctx, ev)
	case table.Exchange:
		return c.exchange(ctx, a, ev)
	case table.Redeem:
		return c.redeem(ctx, a, ev)
	case table.SpendCode:
		ev = c.redeem(ctx, nil, ev)
		ev.Kind = table.CodeSpent
		return ev
	case table.Recover:
		return c.recover(ctx, ev)
	default: // Delete, DeleteAgain
		return c.delete(ctx, ev)
	}
}

// getToken is GetToken, with or without a code. It treats an expired token as no
// token.
func (e *Engine) getToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error) {
	var tok tokensvc.Token
	err := guarded(func() (err error) {
		tok, err = e.service(uc.Connection).GetToken(ctx, uc, code)
		return err
	})
	if err == nil && e.stale(tok) {
		return tokensvc.Token{}, tokensvc.ErrNoToken
	}
	return tok, err
}

func (e *Engine) stale(tok tokensvc.Token) bool {
	return !tok.Expiration.IsZero() && !e.clock().Before(tok.Expiration)
}

// askToken asks whether the user is signed in. It does not repeat what a recovery
// has just asked.
func (c *call) askToken(ctx context.Context, a *store.Attempt, ev table.Event) table.Event {
	if looked := c.looked; looked != nil && ev.Waited == store.None {
		c.looked, c.spared = nil, true
		return *looked
	}
	ev.Kind, ev.Status = table.TokenFound, http.StatusOK
	if !c.token.Token.Empty() {
		c.spared = true
		return ev
	}
	// While a sign-in is pending the cache may predate it, so it is not used.
	tok, drops, cached := c.eng.cache.get(c.user())
	if cached && !c.noToken && (a == nil || a.State.Terminal()) {
		c.token, c.spared = tok, true
		return ev
	}
	err := tokensvc.ErrNoToken
	switch {
	case c.noToken:
	case c.eng.policy.CombinedLookup && !c.movesToChat():
		c.token, c.card.resource, err = c.askBoth(ctx)
		if !c.card.resource.SignInLink.Empty() {
			ev.Kind, ev.Detail = table.NoToken, "no token, but a resource"
			return ev
		}
	default:
		c.token, err = c.eng.getToken(ctx, c.user(), tokensvc.Secret{})
	}
	switch {
	case err == nil:
		c.eng.cache.put(c.user(), c.token, drops)
	case errors.Is(err, tokensvc.ErrNoToken):
		ev.Kind, ev.Status = table.NoToken, http.StatusNotFound
	default:
		ev.Kind, ev.Status = table.LookupFailed, 0
		c.describe(&ev, table.AskToken, store.SourceTokenService, err)
	}
	return ev
}

// askBoth is GetToken and GetSignInResource in one round trip.
func (c *call) askBoth(ctx context.Context) (tokensvc.Token, tokensvc.SignInResource, error) {
	tok, res, err := c.tokens().GetTokenOrSignInResource(ctx, c.user(), c.state(c.turn.to), tokensvc.Secret{})
	switch {
	case err != nil:
		return tokensvc.Token{}, tokensvc.SignInResource{}, err
	case tok != nil && !tok.Token.Empty() && !c.eng.stale(*tok):
		return *tok, tokensvc.SignInResource{}, nil
	case res != nil:
		return tokensvc.Token{}, *res, nil
	default:
		return tokensvc.Token{}, tokensvc.SignInResource{}, tokensvc.ErrNoToken
	}
}

// state is the Token Service's state parameter of a sign-in in a conversation.
func (c *call) state(to store.Conversation) tokensvc.State {
	s := tokensvc.State{
		Connection: c.key.Connection, ChannelID: c.key.Channel, UserID: c.key.User, MsAppID: c.eng.app,
		BotID: to.BotID, ConversationID: to.ID, ServiceURL: to.ServiceURL,
	}
	if act := c.activity(); act != nil {
		s.ActivityID = act.ID
	}
	return s
}

// askResource gets the card's resource and decides where the card goes: to the
// conversation of the request or, from a group with group_chat one_to_one, to the
// user's own chat with the bot. Opening that chat is idempotent, so it needs no row
// before it.
func (c *call) askResource(ctx context.Context, a *store.Attempt, ev table.Event) table.Event {
	ev.Kind, ev.CardConversation = table.ResourceFailed, ""
	c.card.to = c.turn.to
	if c.movesToChat() {
		id, err := c.eng.out.CreateConversation(ctx, c.card.to)
		if err != nil {
			c.describe(&ev, table.AskResource, store.SourceConnector, err)
			return ev
		}
		c.card.to.ID, c.card.to.Type, c.card.to.IsGroup = id, "personal", false
		ev.CardConversation = id
	}
	if c.card.resource.SignInLink.Empty() {
		res, err := c.tokens().GetSignInResource(ctx, c.state(c.card.to))
		if err != nil {
			c.describe(&ev, table.AskResource, store.SourceTokenService, err)
			return ev
		}
		c.card.resource = res
	} else {
		ev.Detail = "came with the look-up"
	}
	ev.Kind, ev.Status = table.ResourceFound, http.StatusOK
	ev.SSO, ev.Withheld, ev.ExchangeID, ev.ResourceURI = false, false, "", ""
	offered := c.card.resource.TokenExchangeResource
	if offered == nil {
		return ev
	}
	switch {
	case !c.eng.offersSSO(c.card.to):
		ev.Withheld = true
	case c.flow() != nil && c.flow().conn.NoSSO:
		ev.Detail = "no SSO: the connection is set so"
	case a != nil && c.now().Before(a.NoSSOUntil):
		ev.Detail = "no SSO: Teams could not match the resource of an earlier card"
	default:
		ev.SSO, ev.ExchangeID, ev.ResourceURI = true, offered.ID, offered.URI
		return ev
	}
	c.card.resource.TokenExchangeResource = nil
	return ev
}

// movesToChat reports whether the card goes to the user's own chat. The resource
// can be requested only after that chat is open.
func (c *call) movesToChat() bool {
	return c.eng.policy.GroupChat == OneToOne && isGroup(c.turn.to)
}

func isGroup(conv store.Conversation) bool {
	return conv.IsGroup || conv.Type == "groupChat" || conv.Type == "channel"
}

// offersSSO: personal chats have SSO, group chats if the policy says so,
// channels never (A14).
func (e *Engine) offersSSO(conv store.Conversation) bool {
	switch {
	case conv.Type == "channel":
		return false
	case isGroup(conv):
		return e.policy.GroupSSO
	default:
		return true
	}
}

// postCard sends the card. A card that certainly was not delivered is sent again
// while the deadline allows (A7); one that may have been is not (A8).
func (c *call) postCard(ctx context.Context, ev table.Event) table.Event {
	m := Message{Card: &OAuthCard{
		Text: c.card.text, Connection: c.key.Connection, Button: c.card.button, Resource: c.card.resource,
	}}
	if act := c.activity(); act != nil && c.card.to.ID == c.turn.to.ID {
		m.ReplyTo = act.ID
	}
	m.Targeted = c.eng.targets(c.card.to)
	for pause := cardPause; ; pause *= 2 {
		id, err := c.eng.out.Send(ctx, c.card.to, m)
		if err == nil {
			ev.Kind, ev.Status, ev.CardID = table.CardAccepted, http.StatusOK, id
			return ev
		}
		status, asked := answerOf(err)
		if status == http.StatusTooManyRequests || status == http.StatusPreconditionFailed {
			if pauseWithin(ctx, max(asked, pause)) {
				continue
			}
		}
		c.describe(&ev, table.PostCard, store.SourceConnector, err)
		ev.Kind = table.CardUnclear
		if notSent(err) || ev.Status >= http.StatusBadRequest && ev.Status < http.StatusInternalServerError {
			ev.Kind = table.CardRejected
		}
		return ev
	}
}

// cardPause is the first pause before a card is sent again.
const cardPause = 500 * time.Millisecond

// exchange hands the SSO token to the Token Service, which is idempotent:
// Retry-After is honoured while the deadline allows.
func (c *call) exchange(ctx context.Context, a *store.Attempt, ev table.Event) table.Event {
	for {
		tok, err := c.tokens().Exchange(ctx, c.user(), c.ssoToken)
		if err == nil && c.eng.stale(tok) {
			err = &tokensvc.Error{Op: tokensvc.OpExchange, Status: http.StatusOK, Err: errors.New("the token has expired")}
		}
		if err == nil {
			c.token = tok
			ev.Kind, ev.Status = table.ExchangeOK, http.StatusOK
			return ev
		}
		status, asked := answerOf(err)
		if asked > 0 && (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable) && pauseWithin(ctx, asked) {
			continue
		}
		c.describe(&ev, table.Exchange, store.SourceTokenService, err)
		ev.Diagnosis = diagnose(c.ssoToken, a, c.eng.clock())
		switch ev.Status {
		case 0, http.StatusOK, http.StatusBadRequest, http.StatusNotFound, http.StatusPreconditionFailed:
			ev.Kind = table.ExchangeRefused
		default:
			ev.Kind = table.ExchangeFailed
		}
		return ev
	}
}

// redeem sends the code only once: even a failed call may spend it.
//
// If the service does not know the code of the attempt a, it may have the token
// nevertheless: the popup stored it without the code. Only the attempt of the only
// candidate is then complete, since a code may belong to another one.
func (c *call) redeem(ctx context.Context, a *store.Attempt, ev table.Event) table.Event {
	var tok tokensvc.Token
	var err error
	own, isOwn := c.tokens().(Redeemer)
	if isOwn {
		// The popup may have ended a while ago. An expired token is dropped, but the
		// code still completes the sign-in: the token can be renewed.
		if tok, c.marks, err = own.Redeem(ctx, c.user(), c.code); err == nil && c.eng.stale(tok) {
			tok = tokensvc.Token{}
		}
	} else {
		tok, err = c.eng.getToken(ctx, c.user(), c.code)
		if errors.Is(err, tokensvc.ErrNoToken) && ev.Only && a != nil && a.State == store.Verifying {
			var late error
			if tok, late = c.eng.getToken(ctx, c.user(), tokensvc.Secret{}); late == nil {
				err, ev.Detail = nil, "the code is unknown, but there is a token"
			}
		}
	}
	if err == nil {
		c.token = tok
		ev.Kind, ev.Status = table.VerifyOK, http.StatusOK
		return ev
	}
	c.describe(&ev, table.Redeem, store.SourceTokenService, err)
	switch {
	case errors.Is(err, tokensvc.ErrNoToken):
		ev.Kind, ev.Status = table.VerifyMiss, http.StatusNotFound
		if isOwn {
			ev.Detail = "code_mismatch"
		}
	case ev.Status == http.StatusBadRequest, ev.Status == http.StatusPreconditionFailed:
		ev.Kind = table.VerifyRefused
	default:
		ev.Kind = table.VerifyFailed
	}
	return ev
}

// recover asks whether there is a token, without a code or an SSO token.
func (c *call) recover(ctx context.Context, ev table.Event) table.Event {
	tok, err := c.eng.getToken(ctx, c.user(), tokensvc.Secret{})
	if err == nil {
		c.token = tok
		ev.Kind, ev.Status = table.Recovered, http.StatusOK
		return ev
	}
	c.describe(&ev, table.Recover, store.SourceTokenService, err)
	if errors.Is(err, tokensvc.ErrNoToken) {
		c.noToken = true
		ev.Kind, ev.Status = table.NotRecovered, http.StatusNotFound
		return ev
	}
	ev.Kind = table.RecoverFailed
	return ev
}

func (c *call) delete(ctx context.Context, ev table.Event) table.Event {
	err := c.tokens().SignOut(ctx, c.user())
	c.eng.forgetTokens(ctx, c.key.UserKey()) // whatever came of it
	if err == nil {
		ev.Kind, ev.Status = table.SignedOut, http.StatusOK
		return ev
	}
	c.describe(&ev, table.Delete, store.SourceTokenService, err)
	ev.Kind = table.SignOutError
	return ev
}

// operation is the name of the upstream operation that an act calls.
func operation(act table.Act) string {
	switch act {
	case table.AskResource:
		return tokensvc.OpGetSignInResource
	case table.PostCard:
		return "Send"
	case table.Exchange:
		return tokensvc.OpExchange
	case table.Delete, table.DeleteAgain:
		return tokensvc.OpSignOut
	default:
		return tokensvc.OpGetToken
	}
}

// clear is an error with an upstream's answer.
type clear interface {
	error
	HTTPStatus() int
}

// describe puts the failure into the event, without secrets.
func (c *call) describe(ev *table.Event, act table.Act, source string, err error) {
	c.upstream = err
	ev.Operation = operation(act)
	if errors.Is(err, tokensvc.ErrNoToken) {
		ev.Detail = "no token"
		return
	}
	ev.Source = source
	ev.Status, _ = answerOf(err)
	var known interface {
		error
		Operation() string
		ErrorCode() string
	}
	if errors.As(err, &known) {
		ev.Operation, ev.Code = known.Operation(), known.ErrorCode()
	}
	var refused *tokensvc.Error
	if errors.As(err, &refused) {
		ev.Consent = refused.Consent
	}
	ev.Message, ev.Detail = err.Error(), short(err)
	if own, ok := tokensvc.CredentialsFailure(err); ok {
		// The call was never made: the bot got no credentials.
		ev.Source, ev.Operation, ev.Code = store.SourceCredentials, own.Op, own.Code
		ev.Cause = own.Status
		ev.Detail = fmt.Sprintf("the bot's own token: %s", short(own))
	}
}

// answerOf returns an error's HTTP status, 0 for no answer, and how long the
// upstream asked to wait.
func answerOf(err error) (status int, wait time.Duration) {
	var known clear
	if !errors.As(err, &known) {
		return 0, 0
	}
	var patient interface {
		error
		RetryDelay() time.Duration
	}
	if errors.As(err, &patient) {
		wait = patient.RetryDelay()
	}
	return known.HTTPStatus(), wait
}

// notSent reports whether a message certainly never left the process.
func notSent(err error) bool {
	var known interface {
		error
		NotSent() bool
	}
	return errors.As(err, &known) && known.NotSent()
}

// pauseWithin waits for d if the deadline allows, and reports whether it has.
func pauseWithin(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	return sleep(ctx, d) == nil
}

// short turns an error into a failureDetail: one for users, without a stack or a
// token.
func short(err error) string {
	status, _ := answerOf(err)
	var known interface {
		error
		ErrorCode() string
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, tokensvc.ErrNoToken), status == http.StatusOK:
		return "no token"
	case status == 0 && (!errors.As(err, &known) || known.ErrorCode() == ""):
		return "no answer"
	case status == 0:
		return "not asked (" + known.ErrorCode() + ")"
	case errors.As(err, &known) && known.ErrorCode() != "":
		return http.StatusText(status) + " (" + known.ErrorCode() + ")"
	default:
		return http.StatusText(status)
	}
}

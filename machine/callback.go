package machine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/signin-engine/signin-engine/machine/internal/outbox"
	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// CompleteHandler is called when the user is signed in. The token is empty if it is
// gone when a callback is repeated.
type CompleteHandler func(ctx context.Context, turn *Turn, token tokensvc.Token) error

// FailureHandler is called when a try has failed. The failure is nil if it happened on
// the server side; [Turn.Refusal] then says more. The card's button may still work.
type FailureHandler func(ctx context.Context, turn *Turn, failure *Failure) error

// Permanent marks an error of a callback that no repeat can change: the callback is
// closed as undeliverable at once, and nothing is stuck. The engine recognises final
// refusals of the connector (the user blocked the bot, the bot was removed) by itself.
// nil stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanentError{err}
}

type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }
func (permanentError) Permanent() bool { return true }

// handlers holds the handlers of one connection, or of all connections.
type handlers struct {
	complete chain[tokensvc.Token]
	failure  chain[*Failure]
}

// OnSignIn adds a handler for the completed sign-ins of every connection, in addition
// to those of [Flow.OnSignInComplete]. [Turn.Connection] names the connection.
func (e *Engine) OnSignIn(h CompleteHandler) { e.handlers.complete.add(h) }

// OnSignInFailure adds a handler for the failed tries of every connection, in addition
// to those of [Flow.OnSignInFailure]. [Turn.Connection] names the connection. It is
// also called for a signin/failure that belongs to no sign-in.
func (e *Engine) OnSignInFailure(h FailureHandler) { e.handlers.failure.add(h) }

// OnSignInFor adds the handler for completed sign-ins with a purpose ([WithPurpose]),
// on any connection. It runs after the others. If the user asked again while the
// sign-in was pending, it runs once for each activity ([Turn.Request]), in that order.
// A second handler for the same purpose is an error.
func (e *Engine) OnSignInFor(purpose string, h CompleteHandler) error {
	e.purposesMu.Lock()
	defer e.purposesMu.Unlock()
	switch {
	case purpose == "":
		return errors.New("handler of a purpose: the purpose is empty")
	case e.purposes[purpose] != nil:
		return fmt.Errorf("the purpose %q has a handler already", purpose)
	}
	of := &handlers{}
	of.complete.add(h)
	if e.purposes == nil {
		e.purposes = map[string]*handlers{}
	}
	e.purposes[purpose] = of
	return nil
}

// resumes reports whether there are handlers of purposes.
func (e *Engine) resumes() bool {
	e.purposesMu.RLock()
	defer e.purposesMu.RUnlock()
	return len(e.purposes) > 0
}

// purposed returns the handlers for what the user asked while this sign-in was
// pending, in that order: the activities of the attempts that it replaced, then its
// own. Each handler gets the turn with its activity.
func (e *Engine) purposed(turn *Turn) ([]link[tokensvc.Token], error) {
	e.purposesMu.RLock()
	defer e.purposesMu.RUnlock()
	if len(e.purposes) == 0 {
		return nil, nil
	}
	asked, err := turn.asked()
	if err != nil {
		return nil, err
	}
	var all []link[tokensvc.Token]
	for _, r := range asked {
		of := e.purposes[r.purpose]
		if of == nil {
			continue
		}
		h := of.complete.whole()
		all = append(all, func(ctx context.Context, turn *Turn, token tokensvc.Token) error {
			about := *turn
			defer func() { about.tx = nil }() // the transaction has ended
			about.original = func() ([]request, error) { return []request{r}, nil }
			if !r.same(turn.opened()) {
				about.part = fmt.Sprintf("/%x", sha256.Sum256(r.activity))[:17]
			}
			return h(ctx, &about, token)
		})
	}
	return all, nil
}

// asked returns what was kept of the attempts that the turn's attempt replaced, the
// oldest first, and of the attempt itself.
func (t *Turn) asked() ([]request, error) {
	var all []request
	for _, of := range []func() ([]request, error){t.before, t.original} {
		if of == nil {
			continue
		}
		kept, err := of()
		if err != nil {
			return nil, fmt.Errorf("read what the user asked: %w", err)
		}
		for _, r := range kept {
			// An attempt that carries on another one's card has its activities, too.
			if !slices.ContainsFunc(all, r.same) {
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// maxEarlier bounds how many replaced attempts are read.
const maxEarlier = 20

// askedBefore returns what was kept of an attempt that was replaced, and of those before
// it in the chain, the oldest first. It was superseded, or it failed and its card goes on.
func (e *Engine) askedBefore(ctx context.Context, id string) (all []request, err error) {
	for n := 0; id != "" && n < maxEarlier; n++ {
		snap, err := e.store.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return all, nil // purged
		}
		if err != nil {
			return nil, err
		}
		a := &snap.Attempts[0]
		if a.Request != nil {
			kept, err := e.unsealed(ctx, a)
			if err != nil {
				return nil, err
			}
			all = slices.Concat(kept, all)
		}
		id = a.Supersedes
	}
	if id != "" {
		e.logger(ctx).Warn().Str("attempt", id).Msgf("what the user asked before the last %d attempts does not come back", maxEarlier)
	}
	return all, nil
}

// AroundSignIn adds a middleware for completed sign-ins. It wraps all their handlers,
// those of [Engine.OnSignIn] and of [Flow.OnSignInComplete], and the middleware that
// was added after it. next runs what is inside; without that call the handlers do not
// run. The middleware's error is the callback's.
func (e *Engine) AroundSignIn(middleware func(next CompleteHandler) CompleteHandler) {
	e.handlers.complete.wrap(func(next link[tokensvc.Token]) link[tokensvc.Token] {
		return link[tokensvc.Token](middleware(CompleteHandler(next)))
	})
}

// AroundSignInFailure is [Engine.AroundSignIn] for failed tries.
func (e *Engine) AroundSignInFailure(middleware func(next FailureHandler) FailureHandler) {
	e.handlers.failure.wrap(func(next link[*Failure]) link[*Failure] {
		return link[*Failure](middleware(FailureHandler(next)))
	})
}

// tell makes the callback of a decision, in the current turn if there is one.
func (c *call) tell(ctx context.Context, d *table.Decision, ev table.Event) {
	e := c.eng
	if d.Tell == table.TellNothing || d.Tell == table.TellSilent {
		return
	}
	now := c.now()
	var row store.Delivery
	var user store.UserKey
	turn := &Turn{eng: e}
	if d.Owed != nil {
		row, user = *d.Owed, d.Attempt.Key.UserKey()
		turn = e.proactive(ctx, d.Attempt, row) // swept: the stored conversation stands in
	} else { // without an attempt there is no row: called once, best effort
		row = store.Delivery{
			DeliveryKey: store.DeliveryKey{Kind: store.DeliverFailure}, Status: store.DeliveryDone,
			Failure: table.FailureOf(&ev), Fanout: d.Tell == table.TellAll,
		}
	}
	if c.turn != nil {
		turn.act, turn.to = c.turn.act, c.turn.to
	}
	if c.via != "" {
		turn.origin = c.via
	}
	flow := c.flow()
	if d.Owed == nil {
		flow = nil
	}
	tell := e.handler(row, flow, turn, c.token) // may read the store
	budget := c.turn.left(e.policy.CallbackBudget, 0)
	if line, done := e.outbox.Inline(ctx, row, user, now, budget, tell); done {
		c.lines, c.worth = append(c.lines, line), true
	}
}

// prepare builds the callback of a row of the outbox. Tokens are never stored, so
// the token is fetched again and may be gone.
func (e *Engine) prepare(ctx context.Context, row store.Delivery) (outbox.Tell, error) {
	snap, err := e.store.Get(ctx, row.Attempt)
	if err != nil {
		return nil, fmt.Errorf("read attempt %s: %w", row.Attempt, err)
	}
	a := &snap.Attempts[0]
	turn := e.proactive(ctx, a, row)
	flow := e.registered(a.Key.Connection)
	if row.Kind != store.DeliverComplete || e.handler(row, flow, turn, tokensvc.Token{}) == nil {
		return e.handler(row, flow, turn, tokensvc.Token{}), nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeouts.Upstream)
	defer cancel()
	tok, err := e.getToken(ctx, userConnection(a.Key), tokensvc.Secret{})
	if err != nil && !errors.Is(err, tokensvc.ErrNoToken) {
		return nil, fmt.Errorf("fetch the token again: %w", err)
	}
	return e.handler(row, flow, turn, tok), nil
}

// proactive is the turn of a callback without an activity.
func (e *Engine) proactive(ctx context.Context, a *store.Attempt, row store.Delivery) *Turn {
	t := &Turn{eng: e, to: a.Conversation, delivery: row.DeliveryKey, about: a.Key.Connection, method: a.Method, origin: a.Origin}
	switch a.Method { //nolint:exhaustive // the others are of the chat
	case store.MethodCompose:
		t.origin = store.OriginCompose
	case store.MethodAdaptiveCard:
		t.origin = store.OriginCardAction
	}
	if f := e.registered(t.about); f != nil {
		t.about = f.conn.Name // as the bot spells it
	}
	if id := a.Supersedes; id != "" {
		t.before = sync.OnceValues(func() ([]request, error) { return e.askedBefore(ctx, id) })
	}
	if a.Request != nil {
		t.original = sync.OnceValues(func() ([]request, error) { return e.unsealed(ctx, a) })
	}
	if r := row.Refusal; r != nil {
		t.refusal = &Refusal{Operation: r.Operation, Status: r.Status, Code: r.Code, Kind: r.Kind, Ended: a.State.Terminal()}
	}
	return t
}

// unsealed opens what was kept of an attempt. An error is that of the keys, which may be
// read later. What no key opens is logged and is empty: it never can be.
func (e *Engine) unsealed(ctx context.Context, a *store.Attempt) ([]request, error) {
	plain, err := e.open(ctx, a.Request)
	switch {
	case errors.Is(err, errSealed):
		e.logger(ctx).Error().Str("attempt", a.ID).Err(err).Msg("the kept activity cannot be opened")
		return []request{{}}, nil
	case err != nil:
		return nil, fmt.Errorf("open the kept activity: %w", err)
	}
	return parseRequests(plain), nil
}

// handler returns the bot's handlers for a row: the bot-wide ones and those of its
// connection (nil if it is no longer registered) or, for a failure with fanout, those
// of every connection. It is nil if there are none.
func (e *Engine) handler(row store.Delivery, flow *Flow, turn *Turn, token tokensvc.Token) outbox.Tell {
	if flow != nil && row.Kind == store.DeliverComplete && !token.Token.Empty() {
		turn.fetched = map[*Flow]tokensvc.Token{flow: token}
	}
	fails := func(err error) outbox.Tell { return func(context.Context, any) error { return err } }
	if turn.original != nil {
		if _, err := turn.original(); err != nil {
			return fails(err)
		}
	}
	who := []*handlers{&e.handlers} // the others run inside its middleware
	switch {
	case row.Fanout:
		for _, f := range e.flows {
			who = append(who, &f.handlers)
		}
	case flow != nil:
		who = append(who, &flow.handlers)
	}
	var run func(ctx context.Context) error
	if row.Kind == store.DeliverComplete {
		purposed, err := e.purposed(turn)
		if err != nil {
			return fails(err)
		}
		if turn.method == store.MethodSilent { // A2: whoever called SignIn has the token
			run = e.handlers.complete.alone(turn, token, purposed)
		} else {
			run = called(who, func(h *handlers) *chain[tokensvc.Token] { return &h.complete }, turn, token, purposed...)
		}
	} else {
		var value *Failure
		if f := row.Failure; f != nil {
			value = &Failure{Code: f.Code, Message: f.Message}
		}
		run = called(who, func(h *handlers) *chain[*Failure] { return &h.failure }, turn, value)
	}
	if run == nil {
		return nil
	}
	return func(ctx context.Context, tx any) error {
		turn.tx = tx
		defer func() { turn.tx = nil }() // the transaction has ended
		failpoint("before", "callback")
		err := run(ctx)
		failpoint("after", "callback")
		return err
	}
}

func (e *Engine) callbackFailed(ctx context.Context, row store.Delivery, err error) {
	if row.Round == 0 && row.Attempt == "" {
		e.logger(ctx).Error().Err(err).Msg("outbox")
	} else {
		e.logger(ctx).Error().Stringer("callback", row.DeliveryKey).Int("tries", row.Tries).Err(err).Msg("callback failed")
	}
	e.report(ctx, nil, fmt.Errorf("callback %s: %w", row.DeliveryKey, err))
}

func (e *Engine) callbackOverrun(row store.Delivery) {
	e.log.Warn().Stringer("callback", row.DeliveryKey).Dur("budget", e.policy.CallbackBudget).
		Msg("callback over its budget goes on detached")
}

package machine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// answerWithin is how long an invoke may take, whatever store and upstreams do: Teams
// gives up after 15 s. upstreamUntil is when the last upstream call for it ends,
// so that there is time left for the commit and the callback.
const (
	answerWithin  = 14 * time.Second
	upstreamUntil = 12 * time.Second
)

// typeInvoke is the type of the activities whose sender waits for the answer.
const typeInvoke = "invoke"

// answerBy is when an invoke has to be answered.
func (e *Engine) answerBy(act *Activity) time.Time {
	return e.clock().Add(answerWithin - act.Waited)
}

// left returns how long the turn's invoke may still wait, at most ask, with reserve
// kept back for what comes after. Anything but an invoke may wait for all of ask.
func (t *Turn) left(ask time.Duration, reserve time.Duration) time.Duration {
	if t == nil || t.until.IsZero() {
		return ask
	}
	return min(ask, t.until.Add(-reserve).Sub(t.eng.clock()))
}

// current returns the turn without its deadline once that has passed: the bot has kept
// the turn of an invoke, and nobody waits for the answer any more.
func (t *Turn) current() *Turn {
	if t.until.IsZero() || t.eng.clock().Before(t.until) {
		return t
	}
	kept := *t
	kept.until = time.Time{}
	return &kept
}

// bounded returns a context for the turn's work. That is finished even if the caller
// hangs up, but an invoke has its answer in time: a store that hangs counts as down.
func (t *Turn) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx = context.WithoutCancel(ctx)
	if t.until.IsZero() {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, t.until.Sub(t.eng.clock()))
}

// late marks an error after the turn's time as the store's: upstream calls end before.
func late(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: no answer in time: %w", store.ErrUnavailable, err)
}

// HandleInvoke answers the three signin/* invokes; false means that the activity is
// another one. There is always an answer, which is the table's. While the store is
// down, or hangs, it is 503 (S), after 14 s at most: Teams waits for 15 s.
func (e *Engine) HandleInvoke(ctx context.Context, act *Activity) (Answer, bool) {
	turn := e.Turn(act)
	turn.until = e.answerBy(act)
	ctx, cancel := turn.bounded(ctx)
	defer cancel()
	switch strings.ToLower(act.Name) {
	case "signin/tokenexchange":
		return e.tokenExchange(ctx, turn), true
	case "signin/verifystate":
		return e.verifyState(ctx, turn), true
	case "signin/failure":
		return e.signInFailure(ctx, turn), true
	default:
		return Answer{}, false
	}
}

// Ready reports whether the store would take a commit now.
func (e *Engine) Ready(ctx context.Context) error {
	if err := e.store.Probe(ctx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

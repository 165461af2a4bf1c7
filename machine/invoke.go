package machine

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// answerWithin is how long an invoke may take, whatever the upstreams do: Teams
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

// HandleInvoke answers the three signin/* invokes; false means that the activity is
// another one. There is always an answer, which is the table's. While the store is down
// it is 503 (S).
func (e *Engine) HandleInvoke(ctx context.Context, act *Activity) (Answer, bool) {
	// The work is finished even if the caller hangs up.
	ctx = context.WithoutCancel(ctx)
	turn := e.Turn(act)
	turn.until = e.answerBy(act)
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

package machine

import (
	"context"
	"fmt"
	"strings"
)

// HandleInvoke answers the three signin/* invokes; false means that the
// activity is none of them. Whatever happens there is an answer, and it is the
// table's; while the store is down it is 503 (S).
func (e *Engine) HandleInvoke(ctx context.Context, act *Activity) (Answer, bool) {
	// The caller may hang up; what was begun is finished all the same.
	ctx = context.WithoutCancel(ctx)
	turn := e.Turn(act)
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

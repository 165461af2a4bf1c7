package machine

import (
	"context"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/store"
)

// Hooks are app-level events beside the per-connection callbacks. They run
// inline and must not block; a nil hook is not called.
type Hooks struct {
	// OnEvent sees every audit line: transitions once they are durable, upstream
	// calls, answers and callbacks once they are over. Also those of a SignIn that
	// found a token at once, and answers to invokes that were refused or that the
	// store had no part in (503), which leave no such line in the store. Metrics
	// and traces are made of it. A line's Key is set, also where the stored one has
	// an Attempt in its place.
	OnEvent func(ctx context.Context, e store.Event)
	// OnSignIn sees every completion after it is durable: the attempt, with its
	// method. [Engine.OnSignIn] is for what the bot does then.
	OnSignIn func(ctx context.Context, a store.Attempt)
	// OnError sees what went wrong where nobody else is told: a signin/failure,
	// a callback that failed, a store that does not answer.
	OnError func(ctx context.Context, act *Activity, err error)
	// OnFailureInvoke may answer a signin/failure itself: its answer is not
	// overwritten. nil = the default 200.
	OnFailureInvoke func(ctx context.Context, turn *Turn, f Failure) *Answer
}

type counter struct{ n atomic.Int64 }

func (c *counter) add() { c.n.Add(1) }

// SilentHits counts the SignIns that found a token at once. They leave no
// row, so this is all that is known of them (A1).
func (e *Engine) SilentHits() int64 { return e.silentHits.n.Load() }

// emit shows audit lines to the hook, each with the key that it is about.
func (e *Engine) emit(ctx context.Context, about store.Key, lines []store.Event) {
	if e.hooks.OnEvent == nil {
		return
	}
	for _, l := range lines {
		if l.Key == (store.Key{}) {
			l.Key = about
		}
		e.hooks.OnEvent(ctx, l)
	}
}

// logger is that of the context, whose lines say which activity they belong to;
// where nobody has put one there, the engine's own.
func (e *Engine) logger(ctx context.Context) *zerolog.Logger {
	if l := zerolog.Ctx(ctx); l.GetLevel() != zerolog.Disabled {
		return l
	}
	return &e.log
}

func (e *Engine) report(ctx context.Context, act *Activity, err error) {
	if e.hooks.OnError != nil {
		e.hooks.OnError(ctx, act, err)
	}
}

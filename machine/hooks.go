package machine

import (
	"context"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/store"
)

// Hooks observe the whole app, in addition to the callbacks of connections. They run
// inline and must not block. A nil hook is not called. One that panics is logged.
type Hooks struct {
	// OnEvent sees every audit line: transitions when they are durable, upstream calls,
	// answers and callbacks when they have ended. It also sees lines that are not
	// stored: those of a SignIn that found a token at once, and answers to refused
	// invokes or without the store (503). Metrics and traces use it. A line's Key is
	// always set; the stored line has an Attempt instead.
	OnEvent func(ctx context.Context, e store.Event)
	// OnSignIn sees every completion when it is durable: the attempt, with its method.
	// For the bot's own actions use [Engine.OnSignIn].
	OnSignIn func(ctx context.Context, a store.Attempt)
	// OnError sees failures that nobody else gets: a signin/failure, a failed callback,
	// a store that does not answer.
	OnError func(ctx context.Context, act *Activity, err error)
	// OnFailureInvoke may answer a signin/failure itself: its answer is not
	// overwritten. nil = the default 200.
	OnFailureInvoke func(ctx context.Context, turn *Turn, f Failure) *Answer
}

type counter struct{ n atomic.Int64 }

func (c *counter) add() { c.n.Add(1) }

// SilentHits counts the SignIn calls that found a token at once. They leave no row, so
// this is their only record (A1).
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
		e.hooked(ctx, func() { e.hooks.OnEvent(ctx, l) })
	}
}

// hooked runs a hook. Its panic must not keep a sign-in from going on.
func (e *Engine) hooked(ctx context.Context, hook func()) {
	if err := guarded(func() error { hook(); return nil }); err != nil {
		e.logger(ctx).Error().Err(err).Msg("a hook of the bot")
	}
}

// logger returns the context's logger, whose lines name their activity, else the
// engine's own.
func (e *Engine) logger(ctx context.Context) *zerolog.Logger {
	if l := zerolog.Ctx(ctx); l.GetLevel() != zerolog.Disabled {
		return l
	}
	return &e.log
}

func (e *Engine) report(ctx context.Context, act *Activity, err error) {
	if e.hooks.OnError != nil {
		e.hooked(ctx, func() { e.hooks.OnError(ctx, act, err) })
	}
}

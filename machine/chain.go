package machine

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/signin-engine/signin-engine/machine/internal/outbox"
)

// link is a handler of a callback that brings a T.
type link[T any] func(ctx context.Context, turn *Turn, what T) error

// chain is the handlers of one kind of callback, with the middleware around them.
type chain[T any] struct {
	mu       sync.RWMutex
	handlers []link[T]
	around   []func(next link[T]) link[T] // the outermost first
}

func (c *chain[T]) add(h func(ctx context.Context, turn *Turn, what T) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlers = append(c.handlers, h)
}

func (c *chain[T]) wrap(m func(next link[T]) link[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.around = append(c.around, m)
}

// whole returns one handler that runs the handlers and then others, inside the
// middleware; nil if there is nothing to run.
func (c *chain[T]) whole(others ...link[T]) link[T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(c.handlers)+len(others)+len(c.around) == 0 {
		return nil
	}
	return c.wrapped(slices.Concat(c.handlers, others))
}

// wrapped returns one handler that runs handlers inside the middleware. The caller
// holds c.mu.
func (c *chain[T]) wrapped(handlers []link[T]) link[T] {
	whole := inTurn(handlers)
	for _, m := range slices.Backward(c.around) {
		next := whole
		whole = safe(func(ctx context.Context, turn *Turn, what T) error { return m(next)(ctx, turn, what) })
	}
	return whole
}

// alone returns a callback to others instead of the handlers, inside the middleware;
// nil if there are none.
func (c *chain[T]) alone(turn *Turn, what T, others []link[T]) func(ctx context.Context) error {
	if len(others) == 0 {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	whole := c.wrapped(others)
	return func(ctx context.Context) error { return whole(ctx, turn, what) }
}

// inTurn runs handlers one after the other. After an error the others still run. After
// a timeout they do not: another process may hold the row by then.
func inTurn[T any](handlers []link[T]) link[T] {
	return func(ctx context.Context, turn *Turn, what T) error {
		var errs outbox.Several
		for _, h := range handlers {
			err := ctx.Err()
			if err == nil {
				err = safe(h)(ctx, turn, what)
			}
			if err != nil {
				errs = append(errs, err)
			}
		}
		if len(errs) == 0 {
			return nil
		}
		return errs
	}
}

// safe turns a panic of the bot's code into an error.
func safe[T any](h link[T]) link[T] {
	return func(ctx context.Context, turn *Turn, what T) error {
		return guarded(func() error { return h(ctx, turn, what) })
	}
}

func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

// called returns a callback to all of who and then to last; the middleware of the first
// wraps the others. It is nil if there is no handler.
func called[T any](who []*handlers, of func(*handlers) *chain[T], turn *Turn, what T, last ...link[T]) func(ctx context.Context) error {
	var inner []link[T]
	for _, h := range who[1:] {
		if l := of(h).whole(); l != nil {
			inner = append(inner, l)
		}
	}
	whole := of(who[0]).whole(append(inner, last...)...)
	if whole == nil {
		return nil
	}
	return func(ctx context.Context) error { return whole(ctx, turn, what) }
}

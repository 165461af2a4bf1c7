package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/signin-engine/signin-engine/store"
)

// ErrInProgress says that another call with the same key is running.
var ErrInProgress = errors.New("already in progress")

// Once runs fn unless it has run to its end under this key before, on any instance:
// with [Turn.DeliveryKey] it makes a handler effectively once. An error of fn is
// returned as it is, and fn may run again at once. If a process dies while fn runs,
// others wait for a minute ([Timeouts.OutboxLease]). If it dies between the end of fn
// and the record of it, fn runs again; for exactly once, write the key in a transaction
// of your own database. While another call with the same key runs, Once returns
// [ErrInProgress], so that the outbox tries again.
func (e *Engine) Once(ctx context.Context, key string, fn func(context.Context) error) error {
	name := "once " + key
	fail := func(err error) error { return fmt.Errorf("once %s: %w", key, err) }
	info, err := e.store.Info(ctx)
	if err != nil {
		return fail(err)
	}
	running := store.Mark{Name: name, Version: 1, Expires: info.Now.Add(e.timeouts.OutboxLease)}
	if err := e.store.Commit(ctx, store.Commit{Marks: []store.Mark{running}}); err != nil {
		if !errors.Is(err, store.ErrDuplicate) {
			return fail(err)
		}
		there, err := e.store.Mark(ctx, name)
		switch {
		case err == nil && there.Version > running.Version:
			return nil // it has run to its end
		case err == nil, errors.Is(err, store.ErrNotFound):
			return fail(ErrInProgress)
		default:
			return fail(err)
		}
	}
	cause := guarded(func() error { return fn(ctx) })
	// The mark now records that fn has run or, after an error, is deleted, so that fn
	// can run again.
	after := store.Mark{Name: name, Version: 2, Expires: info.Now.Add(e.timeouts.Retention), Gone: cause != nil}
	err = e.store.Commit(context.WithoutCancel(ctx), store.Commit{Marks: []store.Mark{after}})
	switch {
	case cause != nil:
		return cause // a mark that was not deleted expires with the lease
	case err != nil:
		return fail(err)
	default:
		return nil
	}
}

// Ran reports whether [Engine.Once] has run a function to its end under this key, on
// any instance.
func (e *Engine) Ran(ctx context.Context, key string) (bool, error) {
	m, err := e.store.Mark(ctx, "once "+key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("ran %s: %w", key, err)
	default:
		return m.Version > 1, nil
	}
}

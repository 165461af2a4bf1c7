package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/signin-engine/signin-engine/store"
)

// ErrInProgress says that another handler is doing the same right now.
var ErrInProgress = errors.New("already in progress")

// Once runs fn unless it has run to its end under this key before, on any
// instance: with [Turn.DeliveryKey] it makes a handler effectively once. A
// process that dies between the end of fn and the note of it runs fn again;
// for exactly once, write the key in the transaction of your own database.
// While another call with the same key is running it returns ErrInProgress,
// so that the outbox tries again.
func (e *Engine) Once(ctx context.Context, key string, fn func(context.Context) error) error {
	info, err := e.store.Info(ctx)
	if err != nil {
		return fmt.Errorf("once %s: %w", key, err)
	}
	// A mark that is over already finds out whether a live one is there.
	done := store.Mark{Name: "done " + key, Expires: info.Now}
	running := store.Mark{Name: "running " + key, Expires: info.Now.Add(e.timeouts.OutboxLease)}
	err = e.store.Commit(ctx, store.Commit{Marks: []store.Mark{done}})
	switch {
	case errors.Is(err, store.ErrDuplicate):
		return nil
	case err != nil:
		return fmt.Errorf("once %s: %w", key, err)
	}
	err = e.store.Commit(ctx, store.Commit{Marks: []store.Mark{running}})
	switch {
	case errors.Is(err, store.ErrDuplicate):
		return fmt.Errorf("once %s: %w", key, ErrInProgress)
	case err != nil:
		return fmt.Errorf("once %s: %w", key, err)
	}
	if err := guarded(func() error { return fn(ctx) }); err != nil {
		return err // the running mark is over after the outbox lease: a retry comes later
	}
	done.Expires = info.Now.Add(e.timeouts.Retention)
	if err := e.store.Commit(detach(ctx), store.Commit{Marks: []store.Mark{done}}); err != nil && !errors.Is(err, store.ErrDuplicate) {
		return fmt.Errorf("once %s: %w", key, err)
	}
	return nil
}

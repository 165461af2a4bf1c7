package machine

import (
	"context"
	"time"
)

// detach is context.WithoutCancel for the hot paths: a look-up in what that one
// returns takes memory, and an HTTP client looks up a dozen times per call.
// Unlike there, Value finds what belongs to the parent's end, too; package
// context asks Done first.
func detach(ctx context.Context) context.Context { return &detached{ctx} }

type detached struct {
	context.Context //nolint:containedctx // it is a context
}

// Deadline is none.
func (*detached) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Done never happens.
func (*detached) Done() <-chan struct{} { return nil }

// Err is always nil.
func (*detached) Err() error { return nil }

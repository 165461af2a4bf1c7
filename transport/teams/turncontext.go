package teams

import (
	"context"
	"sync"
	"time"
)

// turnContext has the values of a request and ends at a deadline instead. It has
// no timer before somebody waits for that: the engine never does, since it
// bounds each of its calls.
type turnContext struct {
	request  context.Context //nolint:containedctx // it is a context
	deadline time.Time

	mu    sync.Mutex
	ended bool
	timed context.Context //nolint:containedctx // the same with a timer, once it is asked for
	stop  context.CancelFunc
}

func (c *turnContext) withTimer() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.timed, c.stop = context.WithDeadline(context.WithoutCancel(c.request), c.deadline)
		if c.ended {
			c.stop()
		}
	}
	return c.timed
}

// end is the context's cancel function.
func (c *turnContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.stop != nil {
		c.stop()
	}
}

// Deadline returns the deadline.
func (c *turnContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done sets the timer.
func (c *turnContext) Done() <-chan struct{} { return c.withTimer().Done() }

// Err says why the context ended, nil if it has not.
func (c *turnContext) Err() error { return c.withTimer().Err() }

// Value asks the context with the timer where there is one: package context
// finds there what its children hang on.
func (c *turnContext) Value(key any) any {
	c.mu.Lock()
	timed := c.timed
	c.mu.Unlock()
	if timed != nil {
		return timed.Value(key)
	}
	return c.request.Value(key)
}
